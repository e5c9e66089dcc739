"""Greedy MAP of a determinantal point process (DPP): tokens of high quality that are least similar to each other.

The kernel is L = diag(q) S diag(q) with the cosine S of the features and a quality q. Each step takes
the token with the largest gain, which is what remains of its diagonal entry of L once the tokens
taken before explain all they can. Incremental Cholesky after Chen et al. 2018,
https://arxiv.org/abs/1709.05135.

The loop runs on S and weighs by q² outside: diag(q) scales the Cholesky factor's rows and nothing
else, so a small quality costs no precision. It is in float64, where what rounding leaves of a
dependent token is about 1e-15 of the diagonal and a stop at 1e-10 tells it from a token that is
merely similar. In float32 both are near 1e-6, and no stop would be safe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tokensieve_strategies._maths.vectors import normalize

STOP = 1e-10
"""A gain up to this fraction of the largest diagonal entry counts as zero: the rank is exhausted."""
_STEPS = 13
"""How many times faster a matrix-matrix product is than matrix-vector products of the same FLOPs, about."""
_WHOLE = 2**24
"""The largest number of similarities that is stored if they could be computed on demand: 128 MB."""
_SLACK = 1e-12
"""Gains with a smaller difference count as equal; far below STOP, far above rounding."""


@dataclass(frozen=True, eq=False)
class Picks:
    """The picks of greedy MAP.

    Attributes:
        places: int64 `[rows, depth]`, in the order of picking, -1 once a row's tokens are used up.
        gains: float64 `[rows, depth]`, the gain of each pick, 0 from the exhausted rank on.
        rank: int64 `[rows]`, how many places were filled by gain; the others by quality.
    """

    places: Tensor
    gains: Tensor
    rank: Tensor

    def notes(self, counts: Tensor, who: str) -> tuple[str, ...]:
        """Return a note for each row in which places were filled by quality.

        Args:
            counts: `[rows]`, the number of tokens of each row.
            who: the name of the strategy.
        """
        asked = counts.clamp(max=self.places.shape[1])
        facts = torch.stack([self.rank, asked], dim=1).tolist()
        return tuple(
            f"{who}: rank {rank} reached in row {row}; {places - rank} places filled by relevance"
            for row, (rank, places) in enumerate(facts)
            if rank < places
        )


def greedy_map(features: Tensor, quality: Tensor, valid: Tensor, depth: int) -> Picks:
    """Return `depth` tokens of every row, the lowest place on ties.

    Where the rank is exhausted, the rest follows by falling quality. Memory is
    O(n (depth + min(n, d))) a row, and up to 128 MB for all rows where that is faster. The host never
    waits for the device.

    Args:
        features: `[rows, n, d]`.
        quality: `[rows, n]`, not negative.
        valid: bool `[rows, n]`, which places hold a token.
        depth: how many to pick, at most n.
    """
    rows, n = valid.shape
    each = torch.arange(rows, device=valid.device)
    features = features.detach()
    weight = torch.where(valid, quality.double().square(), 0.0)
    # The diagonal of S: exactly one, and nothing for a zero vector.
    residual = (features != 0).any(dim=-1).double()
    least = STOP * (weight * residual).amax(dim=1) if n else weight.new_zeros(rows)
    similar = _similarities(features, valid, depth)
    factor = weight.new_zeros(rows, depth, n)
    places = torch.full((rows, depth), -1, device=valid.device)
    gains = weight.new_zeros(rows, depth)
    left = valid.clone()
    going = valid.any(dim=1)
    for turn in range(depth):
        best = torch.where(left, weight * residual, -1.0).amax(dim=1)
        going = going & (best > least)
        tied = left & (weight * (residual + _SLACK) >= (best * (1 - _SLACK)).unsqueeze(1))
        # A token that has no gain of its own is not tied with one that has, however small.
        tied &= weight * residual > least.unsqueeze(1)
        pick = tied.to(torch.uint8).argmax(dim=1)
        places[:, turn] = torch.where(going, pick, -1)
        gains[:, turn] = torch.where(going, best, 0.0)
        left[each, pick] &= ~going
        explained = factor[each, :turn, pick].unsqueeze(1) @ factor[:, :turn]
        root = residual[each, pick].clamp(min=STOP**2).sqrt().unsqueeze(1)
        found = torch.where(going.unsqueeze(1), (similar(pick) - explained.squeeze(1)) / root, 0.0)
        factor[:, turn] = found
        residual = (residual - found.square()).clamp(min=0)
    rank = (places >= 0).sum(dim=1)
    return Picks(_filled(places, rank, left, quality), gains, rank)


def _similarities(features: Tensor, valid: Tensor, depth: int) -> Callable[[Tensor], Tensor]:
    """Return a function that maps one place of each row, `[rows]`, to its similarities to all tokens, `[rows, n]`.

    Kept as a matrix where that takes less memory than the vectors, or less time at this depth; else
    computed on demand.
    """
    rows, n, d = features.shape
    each = torch.arange(rows, device=features.device)
    clean = features.masked_fill(~valid.unsqueeze(-1), 0)
    if n > d and (n > _STEPS * depth or rows * n * n > _WHOLE):
        x = normalize(clean)
        return lambda place: (x @ x[each, place].unsqueeze(-1)).squeeze(-1)
    whole = clean.new_empty(rows, n, n, dtype=torch.float64)
    for row in range(rows):
        x = normalize(clean[row])
        torch.mm(x, x.T, out=whole[row])
    return lambda place: whole[each, place]


def _filled(places: Tensor, rank: Tensor, left: Tensor, quality: Tensor) -> Tensor:
    """Return `places` with the tokens `left` from `rank` on, by falling quality."""
    if not places.numel():
        return places
    by_quality = quality.float().argsort(dim=1, descending=True, stable=True)
    gone = (~left).to(torch.uint8).gather(1, by_quality)
    queue = by_quality.gather(1, gone.argsort(dim=1, stable=True))
    queue = queue.where(torch.arange(queue.shape[1], device=queue.device) < left.sum(dim=1, keepdim=True), -1)
    turn = torch.arange(places.shape[1], device=places.device) - rank.unsqueeze(1)
    return torch.where(turn < 0, places, queue.gather(1, turn.clamp(min=0)))
