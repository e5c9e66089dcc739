"""Layouts: the tile, frame, row and column of every visual token of an image or a video."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from tokensieve.errors import RefusedError
from tokensieve.evidence import NEWLINE


@lru_cache(maxsize=256)
def raster(rows: int, columns: int, frames: int = 1, tile: int = 0) -> Tensor:
    """Return the layout of a plain grid, int64 `[frames * rows * columns, 4]`: tile, frame, row, column.

    Tokens are in the order of frames, then rows, then columns. The same tensor is returned for the same grid, so nobody
    may write into it.

    Args:
        rows: rows of tokens in each frame.
        columns: columns of tokens in each frame.
        frames: how many frames there are; 1 for an image.
        tile: the number of the tile, the same for all tokens.
    """
    frame, row, column = np.indices((frames, rows, columns))
    places = np.stack([np.full_like(frame, tile), frame, row, column], axis=-1).reshape(-1, 4)
    # Kept for calls to come, some of which may be under autograd.
    with torch.inference_mode(False):
        return torch.from_numpy(places)


def tiled(side: int, tiles: int, columns: int, pack: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the layout of an image that is cut into tiles (anyres), int64 `[n, 4]`: tile, frame, row, column.

    Tile 0 is the whole image, and comes first. The other tiles follow as one grid of rows, without what pads it, and
    each row ends with a newline token; so does an image that is not cut. Places are packed as features are, so a
    model's own packing says where each token stands.

    Args:
        side: of each tile, in patches.
        tiles: how many there are, the whole image included.
        columns: how many of the other tiles are in a row.
        pack: returns the vectors of an image, `[tiles, side * side, d]`, packed as the model packs features, `[n, d]`;
            it is given them and the vector of a newline token, `[d]`.
    """
    if tiles == 1:
        return torch.cat([raster(side, side), torch.tensor([[0, 0, side - 1, NEWLINE]])])
    number = torch.arange(tiles - 1)
    # Row and column of a tile are two channels, because interpolation of a larger image keeps them apart.
    place = torch.stack([number // columns, number % columns], dim=1).float()
    place = torch.cat([torch.zeros(1, 2), place])[:, None, :].expand(tiles, side * side, 2)
    packed = pack(place, torch.full((2,), torch.nan))[side * side :]
    newline = packed[:, 0].isnan()
    tile = torch.where(newline.unsqueeze(1), 0.0, packed).round().long()
    row = newline.long().cumsum(0) - newline.long()
    width = int(newline.long().argmax()) + 1
    column = torch.arange(len(packed)) % width
    column[newline] = NEWLINE
    number = torch.where(newline, 0, 1 + tile[:, 0] * columns + tile[:, 1])
    # A newline belongs to the tile before it.
    number[newline] = number[torch.nonzero(newline).flatten() - 1]
    rest = torch.stack([number, torch.zeros_like(row), row, column], dim=1)
    return torch.cat([raster(side, side), rest])


def require_size(pixels: object, side: int) -> None:
    """Raise unless images are squares of a size, for models whose tokens are laid out for that size.

    Args:
        pixels: the images as the caller gave them, `[..., height, width]` or a list of such; none if they came encoded.
        side: in pixels.

    Raises:
        RefusedError: if an image has another size.
    """
    for image in pixels if isinstance(pixels, (list, tuple)) else [pixels]:
        if isinstance(image, Tensor) and image.shape[-2:] != (side, side):
            raise RefusedError(
                f"an image has {image.shape[-2]} x {image.shape[-1]} pixels, and this model's tokens are laid out for "
                f"{side} x {side}; pass images as the model's own processor makes them"
            )


def squares(counts: Sequence[int], pixels: object) -> list[Tensor]:
    """Return the layouts of square images, for models that take every image as a square.

    Args:
        counts: how many tokens each image has.
        pixels: the images as the caller gave them, `[..., height, width]` or a list of such; none if they came encoded.

    Raises:
        RefusedError: if an image is not square, or a number of tokens is not.
    """
    for image in pixels if isinstance(pixels, (list, tuple)) else [pixels]:
        if isinstance(image, Tensor) and image.shape[-2] != image.shape[-1]:
            raise RefusedError(
                f"an image has {image.shape[-2]} x {image.shape[-1]} pixels, and this model's tokens are laid out for "
                "squares; pass images as the model's own processor makes them"
            )
    grids = {}
    for n in set(counts):
        side = math.isqrt(n)
        if side * side != n:
            raise RefusedError(
                f"an image has {n} visual tokens, which is no square grid; with "
                "vision_feature_select_strategy='full' the class token is among them, so use 'default'"
            )
        grids[n] = raster(side, side)
    return [grids[n] for n in counts]
