"""Checkpoints: loading them from folders, and asking them."""
