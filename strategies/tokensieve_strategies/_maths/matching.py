"""Bipartite soft matching: rounds that merge the most similar tokens, at most half of them in each round."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokensieve_strategies._maths.vectors import normalize, round_for_ties


@dataclass(frozen=True, eq=False)
class Merging:
    """How sets of `n` tokens were merged down to `keep`.

    Attributes:
        removed: int64 `[rows, n - keep]`, the places merged away, the first one first.
        remaining: int64 `[rows, keep]`, the places that remain, ascending.
        owner: int64 `[rows, n]`, the remaining place that stands for each token.
    """

    removed: Tensor
    remaining: Tensor
    owner: Tensor


def bipartite_match(x: Tensor, drop: int) -> tuple[Tensor, Tensor]:
    """Return the most similar pairs of an even and an odd place.

    Every even place proposes its most similar odd place by cosine; the `drop` best proposals win.
    The lowest place wins ties on both sides.

    Args:
        x: `[rows, n, d]`.
        drop: at most n // 2.

    Returns:
        Even places int64 `[rows, drop]`, the most similar first, and the odd ones they join.
    """
    direction = normalize(x)
    best, partner = round_for_ties(direction[:, 0::2] @ direction[:, 1::2].mT).max(dim=2)
    order = best.argsort(dim=1, descending=True, stable=True)[:, :drop]
    return 2 * order, 2 * partner.gather(1, order) + 1


def merge_down(x: Tensor, sizes: Tensor, keep: int) -> Merging:
    """Return how the tokens of each row are merged to `keep`: in rounds of half each, the last one as far as needed.

    Vectors that merge become their mean weighted by size, and the next round matches these. The
    rounds before the last do not depend on `keep`, so what remains is nested in it.

    Args:
        x: `[rows, n, d]`.
        sizes: `[rows, n]`, how many original tokens each stands for.
        keep: from 1 to n.
    """
    rows, n, _ = x.shape
    x, mass = x.double(), sizes.double()
    left = torch.arange(n, device=x.device).expand(rows, n)
    owner = place = left
    gone: list[Tensor] = []
    while left.shape[1] > keep:
        width = left.shape[1]
        drop = min(width // 2, width - keep)
        source, target = bipartite_match(x, drop)
        gone.append(left.gather(1, source))
        owner = place.scatter(1, gone[-1], left.gather(1, target)).gather(1, owner)
        total = x * mass.unsqueeze(-1)
        total = total.scatter_add(1, _wide(target, x), total.gather(1, _wide(source, x)))
        mass = mass.scatter_add(1, target, mass.gather(1, source))
        merged = torch.zeros_like(left, dtype=torch.uint8).scatter(1, source, 1)
        stay = merged.argsort(dim=1, stable=True)[:, : width - drop]
        x = (total / mass.unsqueeze(-1)).gather(1, _wide(stay, x))
        mass, left = mass.gather(1, stay), left.gather(1, stay)
    return Merging(torch.cat([place[:, :0], *gone], dim=1), left, owner)


def _wide(place: Tensor, x: Tensor) -> Tensor:
    return place.unsqueeze(-1).expand(-1, -1, x.shape[2])
