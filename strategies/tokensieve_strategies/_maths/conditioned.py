"""The order of greedy MAP conditioned on a question, as QCSP and CDPP have it."""

from __future__ import annotations

from torch import Tensor

from tokensieve import Chain, Ranker, Tokens
from tokensieve.strategy import Order
from tokensieve_strategies._maths.dpp import GreedyMap
from tokensieve_strategies._maths.relevance import silent_notes


class ConditionedOrder(Order):
    """Greedy MAP of tokens, and what it has to say of rows without a question and of exhausted ranks.

    Args:
        strategy: whose order it is.
        tokens: with features and a query.
        quality: `[rows, n]`, not negative.
    """

    def __init__(self, strategy: Ranker, tokens: Tokens, quality: Tensor) -> None:
        self._strategy, self._universe = strategy, tokens.universe
        full = all(size == tokens.universe.n for size in tokens.universe.sizes)
        silent = tokens.valid.any(dim=1) & ~tokens.query.mask.any(dim=1)
        self._picking = GreedyMap(tokens.features, quality, tokens.valid, full=full, along=silent)

    def to(self, depth: int) -> Chain:
        """Go on to `depth` picks."""
        name = self._strategy.name
        picks = self._picking.to(min(depth, self._universe.n))
        notes = silent_notes([silent for *_, silent in picks.facts], name) + tuple(
            f"{name}: rank {rank} reached in row {row}; {asked - rank} places filled by relevance"
            for row, (rank, asked, _) in enumerate(picks.facts)
            if rank < asked
        )
        return Chain.from_picks(self._universe, picks.places, self._strategy, notes, picks.picked)
