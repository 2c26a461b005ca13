"""Editors: each is a rule for the denoiser of one integrator."""
