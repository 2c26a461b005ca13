"""Image editors: each is only a rule for the denoiser of the edited state (eq. 11 to 14)."""
