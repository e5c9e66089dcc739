"""Photographs in the place of the random pictures of a family's tiny model."""

import functools
import math

import numpy as np
import torch
from PIL import Image

from tokensieve.tasks.photographs import PHOTOGRAPHS, Photographs


def photographed(family):
    """Return an adapter's class whose random pictures are photographs: every picture, tile and frame is one."""

    def random_inputs(cls, model, rows, modality="image"):
        made = family.random_inputs(model, rows, modality)
        return {name: _shown(value, made) if name.startswith("pixel_values") else value for name, value in made.items()}

    return type(family.__name__, (family,), {"random_inputs": classmethod(random_inputs)})


def _shown(noise, made):
    """Return pixels of the shape of noise, with photographs in the place of all that is not zero, which pads."""
    grids = next((value for name, value in made.items() if name.endswith("_grid_thw")), None)
    if noise.ndim >= 4:
        pictures = [_pixels(one, *one.shape[1:]) for one in noise.reshape(-1, *noise.shape[-3:])]
    elif grids is not None:
        parts = noise.split(grids.prod(dim=1).tolist())
        pictures = [_in_blocks(part, *grid) for part, grid in zip(parts, grids.tolist(), strict=True)]
    else:
        pictures = [_in_rows(one, *shape) for one, shape in zip(noise, _shapes(noise, made), strict=True)]
    together = torch.cat([picture.flatten() for picture in pictures]).reshape(noise.shape)
    # Noise that is nowhere negative stands for colours from 0 to 1, as some processors leave them.
    scaled = together if bool((noise >= 0).all()) else (together - 0.5) / 0.25
    return torch.where(noise != 0, scaled, noise)


def _shapes(noise, made):
    """Return the rows and columns of the patches of every picture, where patches lie row by row."""
    if "spatial_shapes" in made:
        return made["spatial_shapes"].tolist()
    places = next((value for name, value in made.items() if name.endswith("_position_ids")), None)
    if places is not None:
        return [(int(one[:, 1].max()) + 1, int(one[:, 0].max()) + 1) for one in places]
    side = math.isqrt(noise.shape[1])
    return [(side, side)] * len(noise)


def _in_rows(noise, rows, columns):
    """Return patches `[most, values]` of a photograph, row by row, and zeros where there are fewer."""
    side = math.isqrt(noise.shape[1] // 3)
    picture = _pixels(noise, rows * side, columns * side)
    patches = picture.reshape(3, rows, side, columns, side).permute(1, 3, 2, 4, 0).reshape(rows * columns, -1)
    return torch.cat([patches, torch.zeros(len(noise) - len(patches), patches.shape[1])])


def _in_blocks(noise, times, rows, columns, merge=2):
    """Return patches `[times * rows * columns, values]`: of a time, the patches that are merged follow each other."""
    frames = noise.split(rows * columns)
    # Two frames make a patch, as in Qwen2-VL.
    side = math.isqrt(noise.shape[1] // 6)
    made = []
    for frame in frames:
        picture = _pixels(frame, rows * side, columns * side)
        blocks = picture.reshape(3, rows // merge, merge, side, columns // merge, merge, side)
        patches = blocks.permute(1, 4, 2, 5, 0, 3, 6).reshape(rows * columns, 3, 1, side * side)
        made.append(patches.expand(-1, -1, 2, -1).reshape(rows * columns, -1))
    assert len(frames) == times
    return torch.cat(made)


def _pixels(noise, height, width):
    """Return a photograph `[3, height, width]` of values from 0 to 1; the noise, made from a seed, says which."""
    number = int(noise.double().abs().sum() * 1e3) % len(PHOTOGRAPHS)
    picture = _photograph(number).resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255).permute(2, 0, 1)


@functools.cache
def _photograph(number):
    task = Photographs(longest_side=256)
    return task.picture(task.samples()[number])
