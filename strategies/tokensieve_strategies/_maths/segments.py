"""Segments of a video: the runs of frames in which most places of the picture stay alike."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tokensieve.composers.segments import compare_frames


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


def pictures(grid: Tensor) -> Iterator[Tensor]:
    """Yield the places of each picture, tile by tile.

    Args:
        grid: int64 `[n, 5]`: image, tile, frame, row, column.
    """
    if len(grid):
        numbers, picture = grid[:, :2].unique(dim=0, return_inverse=True)
        for number in range(len(numbers)):
            yield (picture == number).nonzero().flatten()


def cut_where_frames_change(x: Tensor, grid: Tensor, threshold: float, least: int) -> list[list[Tensor]]:
    """Return the segments of all pictures, each a list of frames, each the places of its tokens.

    Between two frames of a picture there is a cut if the cosine of their mean tokens is below `threshold`, or one of
    its `least` - 1 smallest, the earlier ones first on ties.

    Args:
        x: `[n, d]`.
        grid: int64 `[n, 5]`: image, tile, frame, row, column.
        threshold: of cosines.
        least: how many segments a picture of as many frames has at least.
    """
    if not len(x):
        return []
    frame, same_picture, alike = compare_frames(x, grid)
    runs = torch.cat([same_picture.new_zeros(1), same_picture]).logical_not().cumsum(dim=0)
    segments: list[list[Tensor]] = []
    for run in range(1, int(runs[-1]) + 1):
        first, *others = (runs == run).nonzero().flatten().tolist()
        own = alike[first : first + len(others)]
        cut = (own < threshold).index_fill(0, own.argsort(stable=True)[: least - 1], True)
        segments.append([(frame == first).nonzero().flatten()])
        for number, begins in zip(others, cut.tolist(), strict=True):
            if begins:
                segments.append([])
            segments[-1].append((frame == number).nonzero().flatten())
    return segments
