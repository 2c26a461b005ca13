"""Score networks in flax.nnx. Nothing above this package in the house knows that they exist."""
