"""Normalised vectors, and rounding that makes almost equal numbers equal.

Rounding errors of a sum depend on shapes and devices, so the last bits never decide: tokens that are equal in exact
arithmetic are ties, and ties are broken by token id. Small products are computed in float64, which autocast and TF32
do not affect, and compared after rounding. Large ones are computed in float32, where numbers closer than `CLOSE` are
ties; what float32 cannot tell apart is left to float64. See docs/decisions/018-float32.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tokensieve.algebra.doubts import refuse_if
from tokensieve.errors import ScoreError

SMALL = 2**24
"""The largest number of multiplications of a product that is always computed in float64: about a millisecond."""
CLOSE = 2.0**-20
"""Cosines in float32 with a smaller difference are one. The largest error that was measured is 6e-7."""
CLEAR = 2.0**-6
"""What remains of a token after other tokens, as a part of its diagonal entry, is computed in float32 down to here."""
WHOLE = 2**28
"""The largest number of similarities in float32 that is stored: 1 GiB."""
_LENGTHS = (2.0**-50, 2.0**50)
"""Norms between these have squares in float32."""


def in_float32(n: int, d: int, device: torch.device) -> bool:
    """Return whether the similarities of n vectors of d numbers are computed in float32.

    They are where float64 would take time, and where torch computes products in float32 when it is told to.
    """
    # A graph cannot go on in float64 where float32 turns out to be too coarse.
    if n * n * d <= SMALL or torch.compiler.is_exporting():
        return False
    backend: Any = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    return backend.matmul.fp32_precision in ("ieee", "none")


@contextmanager
def no_autocast(device: torch.device) -> Iterator[None]:
    """Compute products in the type of their factors, whatever the model around does."""
    if torch.is_autocast_enabled(device.type):
        with torch.autocast(device.type, enabled=False):
            yield
    else:
        yield


def norms_float32(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the norms of `x` `[..., d]` in float32, and where they can be trusted: neither zero nor huge nor NaN."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return norm, (norm > _LENGTHS[0]) & (norm < _LENGTHS[1])


def normalize(x: Tensor) -> Tensor:
    """Return the vectors scaled to norm 1, float64 `[..., d]`; a zero vector stays zero."""
    wide = x.double()
    norm: Tensor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    length = norm.where(norm > 0, 1.0)
    # A converted copy may be overwritten, which saves the time of a second copy.
    return wide / length if wide is x else wide.div_(length)


def largest_number(x: Tensor) -> Tensor:
    """Return the largest absolute number of each vector of `x` `[..., d]`, or NaN; d is positive. Nothing is copied."""
    x = x.detach()
    return torch.maximum(x.amax(dim=-1), x.amin(dim=-1).neg())


def unit_float32(x: Tensor, largest: Tensor | None = None) -> Tensor:
    """Return the vectors scaled to norm 1, float32 `[..., d]`; a zero vector stays zero, and huge ones do not overflow.

    The largest number of each is brought near 1 by a power of two first, which rounds nothing.

    Args:
        x: the vectors.
        largest: what `largest_number` gives, where it is known.
    """
    wide = x.detach().float()
    if not wide.shape[-1]:
        return wide
    largest = (largest_number(wide) if largest is None else largest.float()).unsqueeze(-1)
    exponent = torch.frexp(largest).exponent.clamp(-126, 126)
    scaled = wide * torch.ldexp(torch.ones_like(largest), -exponent)
    norm: Tensor = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    return scaled.mul_(norm.clamp(min=2.0**-30).reciprocal())


def round_for_ties(x: Tensor) -> Tensor:
    """Return the values rounded to multiples of 2^-30, float64, so that cosines that differ by less are equal."""
    return (x * 2.0**30).round() / 2.0**30


def require_finite(x: Tensor, valid: Tensor, what: str) -> Tensor:
    """Raise `ScoreError` if a valid token's vector, `[rows, n, d]`, holds NaN or an infinity.

    Returns:
        The largest absolute number of each vector, `[rows, n]`.
    """
    if not x.shape[-1]:
        return torch.zeros_like(valid, dtype=x.dtype)
    largest = largest_number(x)
    # NaN is less than nothing.
    finite = largest < torch.inf
    refuse_if(
        (valid > finite).any(),
        lambda: ScoreError(f"{what} hold NaN or an infinity, so tokens cannot be compared by them"),
    )
    return largest
