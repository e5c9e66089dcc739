"""Signs: coloured plates with a word on each, in the fonts that matplotlib brings, on the grounds of scenes."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tokensieve.tasks.world.scenes import FINE, SIDE, SPLITS, Density, Scene, Split, Thing, clutter, ground
from tokensieve.tasks.world.words import COLORS, SIGNS

FONTS = ("DejaVuSans-Bold.ttf", "DejaVuSansMono-Bold.ttf", "DejaVuSerif-Bold.ttf", "STIXGeneralBol.ttf")
"""Files of matplotlib, which are under the Bitstream Vera and the SIL Open Font licences."""
NUMBERS = {"sparse": (2, 4), "dense": (5, 8), "all": (2, 8)}
"""How many signs a picture of each density is meant to have, both ends in it."""
HEIGHTS = (9.0, 12.0)
"""Pixels of the smallest and of the largest letters, from the top of a `d` to the foot of a `p`."""
_SEED = 7
Box = tuple[float, float, float, float]


def signs(split: Split, number: int, density: Density = "all") -> Scene:
    """Draw the signs of a number, `SIDE` x `SIDE` pixels. The same arguments always give the same picture.

    The kind of a `Thing` is its word, and its radius half of its width.

    Args:
        split: pictures of different splits have nothing to do with each other.
        number: which, from 0.
        density: how many signs.
    """
    rng = np.random.default_rng([_SEED, SPLITS.index(split), list(NUMBERS).index(density), number])
    picture = Image.fromarray(ground(rng)).resize((SIDE * FINE, SIDE * FINE), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    clutter(draw, rng)
    low, high = NUMBERS[density]
    wanted = int(rng.integers(low, high + 1))
    # Colours and words come back, so that neither alone says which sign is meant.
    colors = rng.choice(len(COLORS), size=2 + wanted // 2, replace=False)
    words = rng.choice(len(SIGNS), size=2 + wanted // 2, replace=False)
    owner = np.zeros((SIDE * FINE, SIDE * FINE), np.uint8)
    boxes: list[Box] = []
    things: list[Thing] = []
    for _ in range(wanted):
        color, word = list(COLORS)[int(rng.choice(colors))], SIGNS[int(rng.choice(words))]
        font = _font(FONTS[int(rng.integers(len(FONTS)))], round(rng.uniform(*HEIGHTS) * FINE))
        left, top, right, bottom = font.getbbox(word, anchor="ls")
        width, height = right - left + 4 * FINE, bottom - top + 3 * FINE
        box = _place(rng, width, height, boxes)
        if box is None:
            continue
        shade = tuple(int(np.clip(value + rng.normal() * 9, 0, 255)) for value in COLORS[color])
        draw.rounded_rectangle(box, radius=2 * FINE, fill=shade)
        # White where the plate is dark, by the weights of luma.
        ink = (250,) * 3 if np.dot(shade, (0.299, 0.587, 0.114)) < 120 else (15,) * 3
        draw.text((box[0] + 2 * FINE - left, box[1] + 1.5 * FINE - top), word, fill=ink, font=font, anchor="ls")
        boxes.append(box)
        x0, y0, x1, y1 = (round(value) for value in box)
        owner[y0:y1, x0:x1] = len(things) + 1
        center = (box[0] + box[2]) / 2 / FINE, (box[1] + box[3]) / 2 / FINE
        things.append(Thing(color, word, *center, width / 2 / FINE))
    pixels = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX))
    return Scene(pixels, tuple(things), owner)


def _place(rng: np.random.Generator, width: float, height: float, boxes: list[Box]) -> Box | None:
    """Find room for a sign, or none: left, top, right and bottom in fine pixels."""
    side, gap = SIDE * FINE, FINE
    for _ in range(60):
        x, y = float(rng.uniform(0, side - width)), float(rng.uniform(0, side - height))
        if all(
            x > right + gap or x + width < left - gap or y > bottom + gap or y + height < top - gap
            for left, top, right, bottom in boxes
        ):
            return x, y, x + width, y + height
    return None


@functools.lru_cache(maxsize=64)
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    # Whoever draws no signs need not wait for it.
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)
