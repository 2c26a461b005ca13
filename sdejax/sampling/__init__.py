"""Noise to data."""
