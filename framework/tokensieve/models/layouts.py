"""Where the tokens of pictures and videos are."""

from __future__ import annotations

import torch
from torch import Tensor


def raster(rows: int, columns: int, frames: int = 1, tile: int = 0) -> Tensor:
    """Return the layout int64 `[frames * rows * columns, 4]` of pictures read frame by frame, row by row."""
    frame, row, column = torch.meshgrid(torch.arange(frames), torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.full_like(frame, tile), frame, row, column], dim=-1).reshape(-1, 4)
