"""Density peaks: vectors in the middle of many, and far from other such ones."""

from __future__ import annotations

import torch
from torch import Tensor

from tokensieve_strategies._maths.vectors import round_for_ties


def density_peaks(x: Tensor, number: int, near: int) -> tuple[Tensor, Tensor]:
    """Return the centres of clusters by density peaks, and the centre that is nearest to each vector.

    With the distances d_ij = |x_i - x_j| / sqrt(width), the density of i is exp(-mean of d_ij² over the `near` nearest
    j, itself among them), and a centre has a large product of density and distance to the nearest denser vector; the
    densest has the largest distance of all. Of equal densities the lower place is the denser (DPC-KNN, Du et al. 2016).

    Args:
        x: float64 `[n, d]`.
        number: how many centres, from 1 to n.
        near: how many neighbours a density looks at, at least 1; no more than `number` are.

    Returns:
        int64 `[number]`, places in ascending order, and int64 `[n]`, the place of the nearest centre.
    """
    n = len(x)
    apart, scale = _squared_distances(x)
    squared = apart * (scale / x.shape[1])
    density = squared.topk(min(near, number, n), dim=1, largest=False).values.mean(dim=1).neg().exp().float()
    # Where none is denser, the largest distance.
    reach = torch.where(_denser(density), squared, squared.max()).amin(dim=1).sqrt()
    score = (reach * density.double()).float()
    centres = score.argsort(descending=True, stable=True)[:number].sort().values
    return centres, centres[apart[:, centres].argmin(dim=1)].scatter(0, centres, centres)


def peak_order(x: Tensor, near: int) -> Tensor:
    """Return the places of vectors by falling product of density and distance to the nearest denser one, int64 `[n]`.

    The density of i is exp(-mean of |x_i - x_j|² over the `near` nearest others j), and the densest vector has the
    distance to the farthest. Products are compared by their logarithms, for densities of long vectors are no numbers
    of float64. Of equal densities the lower place is the denser, and of equal products it comes first.

    Args:
        x: float64 `[n, d]`.
        near: how many neighbours a density looks at, at least 1.
    """
    n = len(x)
    if n < 2:
        return torch.arange(n, device=x.device)
    apart, scale = _squared_distances(x)
    others = apart.clone().fill_diagonal_(torch.inf)
    sparse = round_for_ties(others.topk(min(near, n - 1), dim=1, largest=False).values.mean(dim=1))
    farthest = apart.amax(dim=1, keepdim=True)
    reach = torch.where(_denser(-sparse), apart, farthest).amin(dim=1)
    return round_for_ties(0.5 * reach.log() - sparse * scale).argsort(descending=True, stable=True)


def _squared_distances(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the squared distances of vectors as parts of the largest, `[n, n]`, and the largest, both float64."""
    length = x.square().sum(dim=1)
    apart = (length.unsqueeze(0) + length.unsqueeze(1) - 2 * x @ x.T).clamp(min=0)
    # Copies have no distance, whatever is left of it by rounding.
    scale = apart.max().clamp(min=1e-300)
    return round_for_ties(apart / scale).fill_diagonal_(0), scale


def _denser(density: Tensor) -> Tensor:
    """Return where j is denser than i, bool `[i, j]`; of equal densities `[n]` the lower place is the denser."""
    place = torch.arange(len(density), device=density.device)
    tied = (density.unsqueeze(0) == density.unsqueeze(1)) & (place.unsqueeze(0) < place.unsqueeze(1))
    return (density.unsqueeze(0) > density.unsqueeze(1)) | tied
