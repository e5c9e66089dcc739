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
    apart, score = _scores(x, min(near, number))
    centres = score.argsort(descending=True, stable=True)[:number].sort().values
    return centres, centres[apart[:, centres].argmin(dim=1)].scatter(0, centres, centres)


def peak_order(x: Tensor, near: int) -> Tensor:
    """Return the places of vectors by how much they are a density peak, as `density_peaks` has it, int64 `[n]`.

    Args:
        x: float64 `[n, d]`, n positive.
        near: how many neighbours a density looks at, at least 1, itself among them.
    """
    return _scores(x, near)[1].argsort(descending=True, stable=True)


def _scores(x: Tensor, near: int) -> tuple[Tensor, Tensor]:
    """Return squared distances as parts of the largest, `[n, n]`, and density times distance to the nearest denser."""
    n = len(x)
    length = x.square().sum(dim=1)
    apart = (length.unsqueeze(0) + length.unsqueeze(1) - 2 * x @ x.T).clamp(min=0)
    # Copies have no distance, whatever is left of it by rounding.
    scale = apart.max().clamp(min=1e-300)
    apart = (round_for_ties(apart / scale)).fill_diagonal_(0)
    squared = apart * (scale / x.shape[1])
    density = squared.topk(min(near, n), dim=1, largest=False).values.mean(dim=1).neg().exp().float()
    place = torch.arange(n, device=x.device)
    tied = (density.unsqueeze(0) == density.unsqueeze(1)) & (place.unsqueeze(0) < place.unsqueeze(1))
    denser = (density.unsqueeze(0) > density.unsqueeze(1)) | tied
    # Where none is denser, the largest distance.
    reach = torch.where(denser, squared, squared.max()).amin(dim=1).sqrt()
    return apart, (reach * density.double()).float()
