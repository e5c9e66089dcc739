"""Greedy loops as Triton kernels: all picks of all rows in one launch.

What they compute is what `dpp_float32.py` and `maxmin.py` compute with torch, from the same
similarities, with the same ties and in the same order of steps; only sums are added up in another
order. One program works on one row, so a row is treated in a batch as it is alone. It keeps what it
reduces at every step in registers, and the factor of greedy MAP in memory.

NO GPU HAS RUN THESE KERNELS YET. They are tested under Triton's interpreter, and compiled for GPUs
without running there, so they are used only where `one_launch.py` is told so. Importing this module
imports triton.
"""

# Bodies of kernels are no Python, and an annotation of a parameter tells triton how to compile it.
# ruff: noqa: ANN001, ANN202
# mypy: ignore-errors
# pyright: basic, reportMissingImports=false, reportArgumentType=false, reportOperatorIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

INTERPRETED = bool(knobs.runtime.interpret)
"""Whether kernels run in Triton's interpreter; decided when triton decorates them."""


def greedy_map(
    similar: Tensor, gain: Tensor, rest: Tensor, places: Tensor, pivots: Tensor, turns: range, near: float
) -> None:
    """Pick some turns of greedy MAP, and write them where they belong.

    Args:
        similar: L, float32 `[rows * n, n]`.
        gain: what remains of the diagonal, float32 `[rows, n]`; changed.
        rest: unexplained similarities of the picks, float32 `[rows, height, n]`; rows before the first
            turn are read, those of the turns are written.
        places: int64 `[depth, rows]`; those of the turns are written.
        pivots: the gain of each pick, float32 `[depth, rows, 1]`; treated as `rest` is.
        turns: which picks, at most `height` and `depth`.
        near: gains of at least this fraction of the largest are ties.
    """
    rows, n = gain.shape
    with torch.cuda.device_of(gain):
        _greedy_map[(rows,)](
            similar, gain, rest, places, pivots, turns.start, turns.stop, n, rest.shape[1] * n, rows, near, **_shape(n)
        )


def max_min(similar: Tensor, closest: Tensor, places: Tensor, pivots: Tensor, turns: range, close: float) -> None:
    """Pick some turns of greedy max-min by cosines, and write them where they belong.

    Args:
        similar: cosines, float32 `[rows * n, n]`.
        closest: the largest cosine of each token to a pick, or before turn 0 to any other token, float32
            `[rows, n]`, and 3 where there is no token; changed.
        places: int64 `[depth, rows]`; those of the turns are written.
        pivots: the cosine that each pick had, float32 `[depth, rows, 1]`; those of the turns are written.
        turns: which picks, at most `depth`.
        close: cosines with no larger a difference are ties.
    """
    rows, n = closest.shape
    with torch.cuda.device_of(closest):
        _max_min[(rows,)](similar, closest, places, pivots, turns.start, turns.stop, n, rows, close, **_shape(n))


def _shape(n: int) -> dict[str, int]:
    """Return how many places a program looks at at once, and its warps: at most 32 places a thread."""
    block = triton.next_power_of_2(max(n, 32))
    return {"BLOCK": block, "num_warps": 4 if block <= 1024 else 8 if block <= 4096 else 16}


@triton.jit(do_not_specialize=["start", "stop", "rows"])
def _greedy_map(similar, gain, rest, places, pivots, start, stop, n, stride, rows, near, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    wide = row.to(tl.int64)
    similar += wide * n * n
    rest += wide * stride
    gain += row * n
    places += row
    pivots += row
    at = tl.arange(0, BLOCK)
    real = at < n
    left = tl.load(gain + at, mask=real, other=-1.0)
    for turn in range(start, stop):
        pivot = tl.max(left, 0)
        # A gain that is no number ties with nothing.
        place = tl.minimum(tl.min(tl.where(left >= pivot * near, at, BLOCK), 0), n - 1)
        found = tl.load(similar + place * n + at, mask=real, other=0.0)
        for earlier in range(turn):
            own = rest + earlier * n
            gained = tl.load(pivots + earlier * rows)
            # Where no gain is left, all that follows is found anew in float64, and must only be finite.
            share = tl.load(own + place) / tl.where(gained > 0, gained, 1.0)
            found -= tl.load(own + at, mask=real, other=0.0) * share
        tl.store(rest + turn * n + at, found, mask=real)
        tl.store(places + turn * rows, place.to(tl.int64))
        tl.store(pivots + turn * rows, pivot)
        # Other threads read these numbers at the next turn.
        tl.debug_barrier()
        left = tl.where(at == place, 0.0, left - found * (found / tl.where(pivot > 0, pivot, 1.0)))
    tl.store(gain + at, left, mask=real)


@triton.jit(do_not_specialize=["start", "stop", "rows"])
def _max_min(similar, closest, places, pivots, start, stop, n, rows, close, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    similar += row.to(tl.int64) * n * n
    closest += row * n
    places += row
    pivots += row
    at = tl.arange(0, BLOCK)
    real = at < n
    near = tl.load(closest + at, mask=real, other=4.0)
    token = near < 2.0
    for turn in range(start, stop):
        pivot = tl.min(near, 0)
        place = tl.minimum(tl.min(tl.where(near <= pivot + close, at, BLOCK), 0), n - 1)
        tl.store(places + turn * rows, place.to(tl.int64))
        tl.store(pivots + turn * rows, pivot)
        cosine = tl.load(similar + place * n + at, mask=real, other=0.0)
        # After the first pick, similarity to picks alone counts.
        near = tl.where(turn > 0, tl.maximum(near, cosine), tl.where(token, cosine, tl.where(real, 3.0, 4.0)))
    tl.store(closest + at, near, mask=real)
