"""What both sides of a comparison with a peer draw for themselves: weights by name, images by number."""

import hashlib

import numpy as np

LEVELS = (0.02, 0.2, 0.5, 0.8, 0.98)  # from little noise to much
CLASS = 3  # what networks with classes are told


def draw(name, shape):
    """The weight of that name: random, and of a size that keeps activations near 1."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    values = np.random.default_rng(seed).standard_normal(shape, np.float32)
    if len(shape) > 1:
        return values * np.float32(np.prod(shape[1:]) ** -0.5)
    if name.startswith("time_proj"):
        return values
    return np.float32(0.1) * values + np.float32("norm" in name and name.endswith("weight"))


def image(number, shape):
    """Unit noise of that number, smooth enough to be a picture for number 0."""
    values = np.random.default_rng(number).standard_normal(shape, np.float32)
    if number == 0:
        values = np.tanh(np.cumsum(np.cumsum(values, 1), 2) / np.float32(shape[1]))
    return values
