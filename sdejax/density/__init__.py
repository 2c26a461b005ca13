"""What a model says of a given image: its density, and how realistic it is."""
