"""Seeds, and the Brownian paths that follow from them (eq. 5)."""
