"""Images from any source to batches."""
