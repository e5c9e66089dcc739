"""Drawings of the tokens that recipes keep of a picture."""

QUESTION = "What is in this picture?"
"""What a picture is shown with, where nobody asks."""
