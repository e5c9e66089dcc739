"""Drawings of the tokens that recipes keep of a picture."""
