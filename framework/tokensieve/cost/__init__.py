"""Counted FLOPs: of the language model, of the vision encoder, and of released models from their configs alone."""
