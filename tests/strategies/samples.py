"""Tokens with all evidence: those that the conformance kit ships."""

from tokensieve.testing.samples import KINDS, attention, row, sample, scrambled, vectors

__all__ = ["KINDS", "attention", "row", "sample", "scrambled", "vectors"]
