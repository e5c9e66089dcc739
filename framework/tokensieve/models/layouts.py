"""Layouts: the tile, frame, row and column of every visual token of an image or a video."""

from __future__ import annotations

import torch
from torch import Tensor


def raster(rows: int, columns: int, frames: int = 1, tile: int = 0) -> Tensor:
    """Return the layout of a plain grid, int64 `[frames * rows * columns, 4]`: tile, frame, row, column.

    Tokens are in the order of frames, then rows, then columns.

    Args:
        rows: rows of tokens in each frame.
        columns: columns of tokens in each frame.
        frames: how many frames there are; 1 for an image.
        tile: the number of the tile, the same for all tokens.
    """
    frame, row, column = torch.meshgrid(torch.arange(frames), torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.full_like(frame, tile), frame, row, column], dim=-1).reshape(-1, 4)
