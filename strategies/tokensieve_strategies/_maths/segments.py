"""Segments of a video: the runs of frames in which most places of the picture stay alike."""

from __future__ import annotations

import torch
from torch import Tensor


def still_segments(alike: Tensor) -> list[slice]:
    """Return the runs of frames in which most tokens are still, found by dynamic programming.

    A place is still in a run of frames if it is alike in all consecutive two of them. A run of m frames with s still
    places saves s (m - 1) tokens, and the runs together save the most. A run is no longer than it must be for that.

    Args:
        alike: bool `[frames - 1, places]`: whether a place shows the same in a frame and the next.
    """
    frames = len(alike) + 1
    saved: list[list[float]] = []
    for start in range(frames):
        still = alike[start:].long().cumprod(dim=0).sum(dim=1)
        saved.append((still * torch.arange(1, frames - start, device=still.device)).tolist())
    best, begin = [0.0] * (frames + 1), [0] * (frames + 1)
    for end in range(1, frames + 1):
        best[end], begin[end] = best[end - 1], end - 1
        for start in range(end - 2, -1, -1):
            total = best[start] + saved[start][end - start - 2]
            if total > best[end]:
                best[end], begin[end] = total, start
    runs, end = [], frames
    while end:
        runs.append(slice(begin[end], end))
        end = begin[end]
    return runs[::-1]


def frame_table(grid: Tensor) -> Tensor:
    """Return which token of a picture is where in each frame, int64 `[frames, places]`, -1 where there is none.

    Several tokens in one cell are several places.

    Args:
        grid: int64 `[n, 3]`, n positive: frame, row, column.
    """
    cell = grid.unique(dim=0, return_inverse=True)[1]
    order = cell.argsort(stable=True)
    sizes = cell.bincount()
    turn = torch.empty_like(cell)
    turn[order] = torch.arange(len(grid), device=grid.device) - (sizes.cumsum(dim=0) - sizes)[cell[order]]
    frames, frame = grid[:, 0].unique(return_inverse=True)
    place = torch.cat([grid[:, 1:], turn.unsqueeze(1)], dim=1).unique(dim=0, return_inverse=True)[1]
    table = grid.new_full((len(frames), int(place.max()) + 1), -1)
    table[frame, place] = torch.arange(len(grid), device=grid.device)
    return table
