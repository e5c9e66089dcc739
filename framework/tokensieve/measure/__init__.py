"""Measuring: what pruning costs on a machine, in operators and in time."""

from tokensieve.measure.operators import Counts, count_operators

__all__ = ["Counts", "count_operators"]
