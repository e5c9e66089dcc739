"""Laws on how scores become ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from tokensieve.algebra.chain import Chain
from tokensieve.algebra.universe import Universe
from tokensieve.errors import ScoreError
from tokensieve.testing.checks import require


def ties_by_id(universe: Universe, scores: Tensor) -> None:
    """Tokens rank by score, and by token id if scores are equal; memory order and padding do not matter."""
    level = Chain.from_scores(universe, scores, "scores").level
    better = scores.unsqueeze(1) > scores.unsqueeze(2)
    first = (scores.unsqueeze(1) == scores.unsqueeze(2)) & (universe.ids.unsqueeze(1) < universe.ids.unsqueeze(2))
    place = ((better | first) & universe.valid.unsqueeze(1)).sum(dim=2)
    require(torch.equal(level[universe.valid], place[universe.valid]), "scores do not rank by value, then id")


def nan_raises(universe: Universe, scores: Tensor) -> None:
    """NaN as the score of a token raises `ScoreError`; at an invalid place it is ignored."""
    bad = torch.where(universe.valid, scores, torch.nan)
    Chain.from_scores(universe, bad, "scores")
    for row, place in universe.valid.nonzero().tolist():
        spoilt = bad.clone()
        spoilt[row, place] = torch.nan
        try:
            Chain.from_scores(universe, spoilt, "scores")
        except ScoreError:
            continue
        raise AssertionError(f"NaN as the score of the token at place {place} of row {row} did not raise")


def infinities_rank(universe: Universe, scores: Tensor) -> None:
    """Infinite scores are valid: +inf ranks first and -inf last, ties by id."""
    for where in (scores > 0, scores < 0, torch.ones_like(scores, dtype=torch.bool)):
        for value in (torch.inf, -torch.inf):
            ties_by_id(universe, torch.where(where, value, scores))


def dtype_free(universe: Universe, scores: Tensor, dtype: torch.dtype) -> None:
    """Casting scores to another dtype changes the order only of tokens whose scores become equal."""
    cast = scores.to(dtype)
    before = Chain.from_scores(universe, scores, "scores").level
    after = Chain.from_scores(universe, cast, "cast").level
    pair = universe.valid.unsqueeze(1) & universe.valid.unsqueeze(2)
    swapped = (before.unsqueeze(1) < before.unsqueeze(2)) & (after.unsqueeze(1) > after.unsqueeze(2))
    apart = cast.unsqueeze(1) != cast.unsqueeze(2)
    require(not (pair & swapped & apart).any(), f"casting to {dtype} swapped tokens of different scores")
