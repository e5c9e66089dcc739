"""Segments of a video: runs of frames that look alike."""

from __future__ import annotations

import torch
from torch import Tensor


def compare_frames(x: Tensor, grid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compare each frame with the one before it, by the cosine of the sums of their tokens.

    Args:
        x: `[n, d]`, n positive.
        grid: int64 `[n, 5]`: image, tile, frame, row, column.

    Returns:
        The number of each token's frame, int64 `[n]`, counted over the tiles of all images; for each frame after the
        first whether it is of the same tile as the one before, bool `[frames - 1]`; and the cosine, float64
        `[frames - 1]`, in which numbers that differ by rounding are one.
    """
    cells, frame = grid[:, :3].unique(dim=0, return_inverse=True)
    total = x.new_zeros(len(cells), x.shape[1], dtype=torch.float64).index_add_(0, frame, x.double())
    length = torch.linalg.vector_norm(total, dim=1, keepdim=True)
    direction = total / length.where(length > 0, 1.0)
    cosine = (direction[1:] * direction[:-1]).sum(dim=1)
    return frame, (cells[1:, :2] == cells[:-1, :2]).all(dim=1), (cosine * 2.0**30).round() / 2.0**30


def segment_numbers(x: Tensor, grid: Tensor, threshold: float) -> Tensor:
    """Return the number of each token's segment, int64 `[n]`: a new one begins where a frame is unlike the one before.

    Args:
        x: `[n, d]`, n positive.
        grid: int64 `[n, 5]`: image, tile, frame, row, column.
        threshold: of the cosine of two frames, below which they are unlike.
    """
    frame, same_tile, cosine = compare_frames(x, grid)
    begins = torch.cat([frame.new_zeros(1), (~same_tile | (cosine < threshold)).long()])
    return begins.cumsum(dim=0)[frame]
