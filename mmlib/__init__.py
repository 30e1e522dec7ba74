"""mmlib: a small PyTorch package for models that see, read and hear."""
