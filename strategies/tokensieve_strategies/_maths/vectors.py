"""Normalised vectors, and rounding that makes almost equal numbers equal.

Similarities are computed in float64, which autocast and TF32 do not affect, and compared after rounding. Rounding
errors of a sum depend on shapes and devices. So the last bits never decide: tokens that are equal in exact arithmetic
are ties, and ties are broken by token id.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokensieve.errors import ScoreError


def normalize(x: Tensor) -> Tensor:
    """Return the vectors scaled to norm 1, float64 `[..., d]`; a zero vector stays zero."""
    wide = x.double()
    norm: Tensor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    length = norm.where(norm > 0, 1.0)
    # A converted copy may be overwritten, which saves the time of a second copy.
    return wide / length if wide is x else wide.div_(length)


def round_for_ties(x: Tensor) -> Tensor:
    """Return the values rounded to multiples of 2^-30, float64, so that cosines that differ by less are equal."""
    return (x * 2.0**30).round() / 2.0**30


def require_finite(x: Tensor, valid: Tensor, what: str) -> None:
    """Raise `ScoreError` if a valid token's vector, `[rows, n, d]`, holds NaN or an infinity."""
    if not bool((x.isfinite().all(dim=-1) | ~valid).all()):
        raise ScoreError(f"{what} hold NaN or an infinity, so tokens cannot be compared by them")
