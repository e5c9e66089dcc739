"""FLoC: tokens that together stand for all others, block by block of a long video."""

from __future__ import annotations

from fractions import Fraction
from itertools import islice

import torch
from pydantic import Field
from torch import Tensor

from tokensieve import Chain, Evidence, Ranker, Tokens
from tokensieve.algebra.budget import apportion
from tokensieve_strategies._maths.coverage import lazy_cover
from tokensieve_strategies._maths.order import stack_orders
from tokensieve_strategies._maths.vectors import (
    CLOSE,
    in_float32,
    no_autocast,
    normalize,
    require_finite,
    round_for_ties,
    unit_float32,
)


class FLoC(Ranker):
    """Keeps tokens so that every token of a block of frames has a similar one among them.

    Frame f of a picture is in block floor(f / frames). Of a block with the tokens V, the order is that of
    greedy maximisation, by lazy evaluation, of the facility location function

        F(S) = sum over v in V of max over u in S of cos(x_v, x_u),

    of which the first pick has the largest sum of cosines. Places are apportioned to the blocks by their
    numbers of tokens (Sainte-Laguë), so each block keeps the same part, and one place more takes no token
    away. The lowest id wins ties.

    Paper: Cho et al., FLoC, ICLR 2026. The authors have published no code. How ours differs from the
    paper: a budget that the blocks do not divide is dealt exactly; pictures without time are one block.
    Memory is that of the similarities of one block.

    Attributes:
        frames: how many frames there are in a block.
    """

    name = "floc"
    paper = "https://arxiv.org/abs/2511.00141"
    complexity = ("O(n b (d + k)) at most, b tokens in a block", "O(b² + n d)")
    examples = ({}, {"frames": 1}, {"frames": 2})

    frames: int = Field(default=32, ge=1)

    @property
    def needs(self) -> frozenset[Evidence]:
        """The features of the tokens, and the grid."""
        return frozenset({Evidence.FEATURES, Evidence.GRID})

    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Return the tokens in the order in which places are apportioned to the blocks."""
        require_finite(tokens.features, tokens.valid, "floc: the features")
        orders = [
            self._order(tokens.features[row, :n].detach(), tokens.grid[row, :n], min(depth, n))
            for row, n in enumerate(tokens.universe.sizes)
        ]
        return Chain.from_picks(tokens.universe, stack_orders(orders, depth, tokens.ids), self)

    def _order(self, x: Tensor, grid: Tensor, depth: int) -> Tensor:
        time = grid[:, 2].div(self.frames, rounding_mode="floor")
        cell = torch.stack([grid[:, 0], grid[:, 1], time], dim=1)
        block, sizes = cell.unique(dim=0, return_inverse=True, return_counts=True)[1:]
        capacity = sizes.tolist()
        turns = [*islice(apportion([Fraction(size) for size in capacity], capacity), depth)]
        heads = []
        for number in range(len(capacity)):
            own = (block == number).nonzero().flatten()
            picks = lazy_cover(_similar(x[own]), turns.count(number))
            heads.append(iter(own[picks].tolist()))
        return torch.tensor([next(heads[number]) for number in turns], dtype=torch.int64, device=x.device)


def _similar(x: Tensor) -> Tensor:
    """Return 1 + the cosines of all pairs, `[n, n]`, with the same greedy picks; in float32 where there are many."""
    if not in_float32(len(x), x.shape[1], x.device):
        direction = normalize(x)
        return (1 + round_for_ties(direction @ direction.T)).clamp(min=0)
    with no_autocast(x.device):
        unit = unit_float32(x)
        similar = unit @ unit.T
    # Of copies it is 1 up to rounding, which is in the middle of what is rounded to 1.
    return similar.div_(2 * CLOSE).round_().mul_(2 * CLOSE).add_(1).clamp_(min=0)
