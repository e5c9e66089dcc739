"""Directions of vectors, and when two numbers are one.

Similarities are computed in float64, out of reach of autocast and TF32, and compared in coarser
steps. What rounding does to a sum depends on shapes and devices; so the last bits never decide, and
tokens that mathematics cannot tell apart are ties, which break by token id.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokensieve.errors import ScoreError


def unit(x: Tensor) -> Tensor:
    """Return float64 `[..., d]`: the vectors with norm 1; a zero vector stays zero."""
    wide = x.double()
    norm: Tensor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    length = norm.where(norm > 0, 1.0)
    # A converted copy is ours to overwrite: another one would take as long as a twentieth of a product.
    return wide / length if wide is x else wide.div_(length)


def settle(x: Tensor) -> Tensor:
    """Return float64 rounded to multiples of 2^-30: cosines that differ by less are one."""
    return (x * 2.0**30).round() / 2.0**30


def require_finite(x: Tensor, valid: Tensor, what: str) -> None:
    """Raise `ScoreError` if a valid token's vector, `[rows, n, d]`, holds NaN or an infinity."""
    if not bool((x.isfinite().all(dim=-1) | ~valid).all()):
        raise ScoreError(f"{what} hold NaN or an infinity, so tokens cannot be compared by them")
