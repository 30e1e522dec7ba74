"""The command line: ``python -m mmlib``."""
