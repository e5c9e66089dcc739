"""Uniform: tokens at even distances over the image."""

from __future__ import annotations

import torch

from tokensieve import Chain, Evidence, Ranker, Tokens
from tokensieve_strategies._maths.spread import spread_order


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
    complexity = ("O(n k)", "O(n)")

    @property
    def needs(self) -> frozenset[Evidence]:
        """The grid."""
        return frozenset({Evidence.GRID})

    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Return the order of greedy max-min picks on the grid, which is remembered for grids seen before."""
        universe = tokens.universe
        depth = min(depth, universe.n)
        grid = tokens.grid.numpy(force=True)
        orders = [spread_order(grid[row, :n], min(depth, n)) if n else [] for row, n in enumerate(universe.sizes)]
        padded = [order + [-1] * (depth - len(order)) for order in orders]
        picks = torch.tensor(padded, dtype=torch.int64, device=universe.device).reshape(universe.rows, depth)
        return Chain.from_picks(universe, picks, self, picked=orders)
