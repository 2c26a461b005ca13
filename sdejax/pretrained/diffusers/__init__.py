"""Folders of the diffusers library."""
