"""Training a score model."""
