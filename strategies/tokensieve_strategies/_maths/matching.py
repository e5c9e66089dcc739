"""Bipartite soft matching: rounds that merge the most similar tokens, at most half of them in each round."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokensieve_strategies._maths.vectors import (
    CLOSE,
    in_float32,
    largest_number,
    no_autocast,
    normalize,
    round_for_ties,
)


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


def merge_down(x: Tensor, sizes: Tensor, keep: int) -> Merging:
    """Return how the tokens of each row are merged to `keep`: in rounds of half each, the last one as far as needed.

    In a round every even place proposes its most similar odd place by cosine, and the best proposals win; the lowest
    place wins ties on both sides. Vectors that merge become their mean weighted by size, and the next round matches
    these. The rounds before the last do not depend on `keep`, so what remains is nested in it.

    Args:
        x: `[rows, n, d]`.
        sizes: `[rows, n]`, how many original tokens each stands for.
        keep: from 1 to n.
    """
    rows, n, d = x.shape
    quick = in_float32(n, d, x.device)
    # A mean has the direction of the sum.
    total = _scaled(x, sizes) if quick else x.double() * sizes.double().unsqueeze(-1)
    left = torch.arange(n, device=x.device).expand(rows, n)
    row = torch.arange(rows, device=x.device).unsqueeze(1)
    owner = place = left
    gone: list[Tensor] = []
    while left.shape[1] > keep:
        width = left.shape[1]
        drop = min(width // 2, width - keep)
        with no_autocast(x.device):
            source, target = _proposals(total, drop, quick=quick)
        gone.append(left.gather(1, source))
        owner = place.scatter(1, gone[-1], left.gather(1, target)).gather(1, owner)
        flat = total.view(-1, d)
        joining = flat.index_select(0, (row * width + source).view(-1))
        flat.index_add_(0, (row * width + target).view(-1), joining)
        if width == 2 * drop:
            total, left = total[:, 1::2].contiguous(), left[:, 1::2]
            continue
        merged = torch.zeros_like(left, dtype=torch.uint8).scatter(1, source, 1)
        stay = merged.argsort(dim=1, stable=True)[:, : width - drop]
        total = flat.index_select(0, (row * width + stay).view(-1)).view(rows, width - drop, d)
        left = left.gather(1, stay)
    return Merging(torch.cat([place[:, :0], *gone], dim=1), left, owner)


def _proposals(x: Tensor, drop: int, *, quick: bool) -> tuple[Tensor, Tensor]:
    """Return even places int64 `[rows, drop]`, the most similar ones first, and the odd places that they join."""
    if quick:
        # Vectors shorter than this part of the row's longest are no longer told apart.
        unit = x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=2.0**-60)
        similar = torch.bmm(unit[:, 0::2], unit[:, 1::2].mT)
        best = similar.amax(dim=2, keepdim=True)
        partner = (similar >= best - CLOSE).to(torch.uint8).argmax(dim=2)
        # Of copies it is 1 up to rounding, which is in the middle of what is rounded to 1.
        best = (best.squeeze(2) / (2 * CLOSE)).round()
    else:
        unit = normalize(x)
        best, partner = round_for_ties(torch.bmm(unit[:, 0::2], unit[:, 1::2].mT)).max(dim=2)
    order = best.argsort(dim=1, descending=True, stable=True)[:, :drop]
    return 2 * order, 2 * partner.gather(1, order) + 1


def _scaled(x: Tensor, sizes: Tensor) -> Tensor:
    """Return the vectors times their sizes in float32, with the largest number of a row near the size it is of."""
    wide = x.detach().float()
    exponent = torch.frexp(largest_number(wide).amax(dim=1, keepdim=True)).exponent.clamp(-126, 126)
    factor = torch.ldexp(sizes.float(), -exponent)
    return wide * factor.unsqueeze(-1)
