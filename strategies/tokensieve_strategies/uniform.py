"""Uniform: tokens at even distances over the image."""

from __future__ import annotations

from torch import Tensor

from tokensieve import Chain, Evidence, Ranker, Tokens
from tokensieve_strategies._maths.maxmin import max_min
from tokensieve_strategies._maths.vectors import round_for_ties


class Uniform(Ranker):
    """Keeps tokens at even distances on the grid, regardless of their content.

    Greedy max-min: the first token is the one nearest the middle, and each next one is the token
    farthest from all before it, j = argmax over i of min over picked p of |g_i - g_p|². A grid with
    a fixed stride gives some counts only, and the sets for two counts share few tokens; this order
    gives every count, nests, is the same every time, and works on the ragged rest of a picture too.

    g = (image, tile, frame, row, column). Row and column are divided by the longer side of the two,
    so a picture keeps its shape; image, tile and frame each by their own extent, so the picks spread
    over these too, and all of a video's time weighs as much as the longer side of its pictures.

    A control without a paper.
    """

    name = "uniform"

    @property
    def needs(self) -> frozenset[Evidence]:
        """The grid."""
        return frozenset({Evidence.GRID})

    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Return the order of greedy max-min picks on the grid."""
        universe = tokens.universe
        if not universe.n:
            return Chain.from_picks(universe, universe.ids, self)
        at = _coordinates(tokens)

        def distance(places: Tensor) -> Tensor:
            picked = at.gather(1, places.unsqueeze(-1).expand(-1, -1, at.shape[2]))
            return round_for_ties((picked.unsqueeze(2) - at.unsqueeze(1)).square().sum(dim=-1))

        # The middle has the coordinates 0.
        first = round_for_ties(at.square().sum(dim=-1)).where(tokens.valid, float("inf")).argmin(dim=1)
        picks = max_min(distance, tokens.valid, first, min(depth, universe.n))
        return Chain.from_picks(universe, picks, self)


def _coordinates(tokens: Tokens) -> Tensor:
    """Return the scaled grid coordinates, float64 `[rows, n, 5]`, with the middle of each row's tokens at 0."""
    grid, outside = tokens.grid, ~tokens.valid.unsqueeze(-1)
    low = grid.masked_fill(outside, 2**31).amin(dim=1, keepdim=True)
    high = grid.masked_fill(outside, -(2**31)).amax(dim=1, keepdim=True)
    extent = (high - low).clamp(min=1)
    extent[..., 3:] = extent[..., 3:].amax(dim=-1, keepdim=True)
    return (2 * grid - low - high) / (2.0 * extent.double())
