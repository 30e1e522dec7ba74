"""Files on disk -> batches."""
