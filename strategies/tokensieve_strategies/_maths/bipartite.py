"""Edges of a bipartite graph between every second vector and the others: where the cosine reaches a threshold."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokensieve_strategies._maths.streamed import EXACT, cosine_quantile, cosine_tiles, mean_cosines
from tokensieve_strategies._maths.vectors import in_float32, no_autocast, unit_float32

AT_ONCE = 2**22
"""The largest number of cosines that are in memory at once: 16 MB in float32. More are streamed in tiles."""


@dataclass(frozen=True, eq=False)
class Edges:
    """The edges of each vector, in the order of the vectors.

    Attributes:
        degree: float64 `[n]`, how many there are.
        excess: float64 `[n]`, by how much their mean cosine exceeds the threshold; 0 without edges.
        mean: float64 `[n]`, the mean cosine to all of the other side; 0 where nothing is there.
    """

    degree: Tensor
    excess: Tensor
    mean: Tensor


def bipartite_edges(
    x: Tensor, tau: float | None, quantile: float, slack: float, largest: Tensor | None = None
) -> Edges:
    """Return the edges of vectors `x` `[n, d]`, which alternate between the two sides.

    Args:
        x: the vectors.
        tau: the threshold; without it, it is the quantile of all cosines between the sides.
        quantile: from 0 to 1.
        slack: cosines this far below the threshold still make an edge.
        largest: the largest absolute number of each vector, `[n]`, where it is known.
    """
    pairs = (len(x) // 2) * (len(x) - len(x) // 2)
    if in_float32(len(x), x.shape[1], x.device) and pairs <= AT_ONCE:
        with no_autocast(x.device):
            return _at_once(unit_float32(x, largest), tau, quantile, slack)
    return _in_tiles(x, tau, quantile, slack)


def _at_once(unit: Tensor, tau: float | None, quantile: float, slack: float) -> Edges:
    even, odd = unit[0::2], unit[1::2]
    similar = even @ odd.T
    threshold = similar.new_tensor(tau) if tau is not None else _quantile(similar.view(-1), quantile)
    similar.sub_(threshold - slack)
    edge = similar >= 0
    degree = torch.cat([edge.sum(dim=1), edge.sum(dim=0)])
    similar.relu_()
    total = torch.cat([similar.sum(dim=1), similar.sum(dim=0)]).double()
    mean = torch.cat([even @ (odd.sum(dim=0) / len(odd)), odd @ (even.sum(dim=0) / len(even))])
    excess = total / degree.clamp(min=1)
    excess = torch.where(degree > 0, excess - slack, excess)
    alternating = torch.stack([degree.double(), excess, mean.double()])
    found = torch.empty_like(alternating)
    found[:, 0::2], found[:, 1::2] = alternating[:, : len(even)], alternating[:, len(even) :]
    return Edges(*found.unbind())


def _quantile(values: Tensor, q: float) -> Tensor:
    """Return the q-quantile of `values` `[p]`, by selection and without sorting them; see `cosine_quantile`."""
    at = q * (len(values) - 1)
    low = int(at)
    lower = values.median() if low == (len(values) - 1) // 2 else values.kthvalue(low + 1).values
    if at == low or len(values) > EXACT:
        return lower
    # The next one is as large if there are more of it, else the least above: cheaper than another selection.
    above = values > lower
    upper = torch.where(above, values, torch.inf).amin()
    return torch.lerp(lower, torch.where(above.sum() < len(values) - low - 1, lower, upper), at - low)


def _in_tiles(x: Tensor, tau: float | None, quantile: float, slack: float) -> Edges:
    sides = even, odd = x[0::2], x[1::2]
    threshold = cosine_quantile(even, odd, quantile) if tau is None else tau
    degrees = [x.new_zeros(len(side), dtype=torch.float64) for side in sides]
    totals = [x.new_zeros(len(side), dtype=torch.float64) for side in sides]
    for rows, columns, similarity in cosine_tiles(even, odd):
        edge = similarity >= threshold - slack
        similarity = similarity.where(edge, 0.0)
        for side, places, across in ((0, rows, 1), (1, columns, 0)):
            degrees[side][places] += edge.sum(dim=across)
            totals[side][places] += similarity.sum(dim=across, dtype=torch.float64)
    found = x.new_empty(3, len(x), dtype=torch.float64)
    for side, other in ((0, 1), (1, 0)):
        own = degrees[side]
        excess = torch.where(own > 0, totals[side] / own.clamp(min=1) - threshold, 0.0)
        found[:, side::2] = torch.stack([own, excess, mean_cosines(sides[side], sides[other])])
    return Edges(*found.unbind())
