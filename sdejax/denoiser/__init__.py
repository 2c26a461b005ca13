"""What a model is to a sampler (eq. 6 and 7)."""
