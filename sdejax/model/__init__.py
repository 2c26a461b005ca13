"""A model: a network with what it takes to be a denoiser."""
