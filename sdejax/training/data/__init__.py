"""Training data: images from any source, decoded into batches."""
