"""Scenes: coloured shapes and digits among coloured clutter on textured grounds, drawn from a seed."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tokensieve.tasks.world.words import COLORS, KINDS, SHAPES

SIDE = 96
"""Pixels along a picture's side."""
FINE = 2
"""Pictures are drawn this much larger, and averaged down."""
COVERED = 0.12
"""The part of a cell that an object must cover for the cell to count as its."""
OBJECTS = {"sparse": (4, 7), "dense": (8, 14), "all": (4, 14)}
"""How many objects a scene of each density is meant to have, both ends in it."""
SPLITS = ("train", "validation", "test")
"""Scenes of different splits never share a seed."""

Density = Literal["sparse", "dense", "all"]
Split = Literal["train", "validation", "test"]
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Thing:
    """An object of a scene.

    Attributes:
        color: a key of `COLORS`.
        kind: one of `KINDS`.
        x: of its centre, in pixels from the left.
        y: of its centre, in pixels from the top.
        radius: in pixels.
    """

    color: str
    kind: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture, and what is in it.

    Attributes:
        pixels: uint8 `[SIDE, SIDE, 3]`.
        things: its objects.
        owner: uint8 `[FINE * SIDE, FINE * SIDE]`: 1 + the number of the object at a fine pixel, or 0.
    """

    pixels: NDArray[np.uint8]
    things: tuple[Thing, ...]
    owner: NDArray[np.uint8]

    def coverage(self, rows: int, columns: int) -> NDArray[np.float64]:
        """Return how much of each cell of a grid each object covers.

        Returns:
            float64 `[things, rows * columns]`, row by row.

        Raises:
            ValueError: if the grid does not divide the fine picture.
        """
        side = FINE * SIDE
        if side % rows or side % columns:
            raise ValueError(f"a grid of {rows} x {columns} does not divide {side} fine pixels")
        blocks = self.owner.reshape(rows, side // rows, columns, side // columns).transpose(0, 2, 1, 3)
        cells = blocks.reshape(rows * columns, -1)
        return np.stack([(cells == number + 1).mean(axis=1) for number in range(len(self.things))])

    def cells(self, things: Collection[int], rows: int, columns: int) -> frozenset[int]:
        """Return the cells of a grid that any of some objects covers."""
        covered = self.coverage(rows, columns)[sorted(things)] >= COVERED
        return frozenset(np.flatnonzero(covered.any(axis=0)).tolist())


def scene(split: Split, number: int, density: Density = "all") -> Scene:
    """Draw the scene of a number.

    The same arguments always give the same scene.

    Args:
        split: scenes of different splits have nothing to do with each other.
        number: which, from 0.
        density: how many objects.
    """
    rng = np.random.default_rng([SPLITS.index(split), list(OBJECTS).index(density), number])
    picture = Image.fromarray(ground(rng)).resize((SIDE * FINE, SIDE * FINE), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    clutter(draw, rng)
    low, high = OBJECTS[density]
    wanted = int(rng.integers(low, high + 1))
    colors = rng.choice(len(COLORS), size=min(len(COLORS), 3 + wanted // 2), replace=False)
    kinds = np.concatenate([rng.choice(6, size=4, replace=False), 6 + rng.choice(10, size=4, replace=False)])
    owner = np.zeros((SIDE * FINE, SIDE * FINE), np.uint8)
    things: list[Thing] = []
    # The more there are, the smaller they are; the smallest is still two cells of a 12 x 12 grid wide.
    largest = 11.5 - 0.25 * max(0, wanted - 4)
    for _ in range(wanted):
        radius = float(rng.uniform(7.0, largest))
        place = _place(rng, radius, things)
        if place is None:
            continue
        thing = Thing(list(COLORS)[int(rng.choice(colors))], KINDS[int(rng.choice(kinds))], *place, radius)
        drawn = mask(thing, rng)
        shade = tuple(int(np.clip(value + rng.normal() * 9, 0, 255)) for value in COLORS[thing.color])
        picture.paste(shade, (0, 0), drawn)
        owner[np.asarray(drawn) > 127] = len(things) + 1
        things.append(thing)
    pixels = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX))
    return Scene(pixels, tuple(things), owner)


def _place(rng: np.random.Generator, radius: float, things: list[Thing]) -> tuple[float, float] | None:
    """Find room for an object, or none."""
    for _ in range(40):
        x, y = (float(value) for value in rng.uniform(radius + 0.5, SIDE - radius - 0.5, 2))
        if all(max(abs(x - o.x), abs(y - o.y)) > (radius + o.radius) * 1.02 + 0.5 for o in things):
            return x, y
    return None


def ground(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a textured ground: waves, checks, clouds or a slope, a little tinted."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float64)
    base, amplitude = rng.uniform(60, 190), rng.uniform(8, 35)
    texture = int(rng.integers(4))
    if texture == 0:
        angle = rng.uniform(0, math.pi)
        pattern = np.sin((x * math.cos(angle) + y * math.sin(angle)) * rng.uniform(0.15, 0.9))
    elif texture == 1:
        check = int(rng.integers(3, 12))
        pattern = ((x // check + y // check) % 2) * 2 - 1
    elif texture == 2:
        coarse = int(rng.integers(4, 24))
        noise = Image.fromarray(rng.normal(size=(coarse, coarse)).astype(np.float32))
        pattern = np.asarray(noise.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float64)
    else:
        pattern = (x * rng.uniform(-1, 1) + y * rng.uniform(-1, 1)) / SIDE * 2
    grey = base + amplitude * pattern + rng.normal(size=(SIDE, SIDE)) * rng.uniform(2, 9)
    tinted: NDArray[np.float64] = np.clip(grey[..., None] + rng.uniform(-12, 12, size=3), 0, 255)
    return tinted.astype(np.uint8)


def clutter(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    """Draw what is never asked about: grey polygons, and thin strokes and dots in the objects' own colours."""
    side = SIDE * FINE
    for _ in range(int(rng.integers(2, 7))):
        x, y = rng.uniform(0, side, 2)
        if rng.random() < 0.5:
            value = int(rng.integers(20, 235))
            draw.polygon([tuple(np.array([x, y]) + rng.uniform(-14, 14, 2)) for _ in range(4)], fill=(value,) * 3)
        else:
            _stroke(draw, rng, (int(rng.integers(20, 235)),) * 3)
    for _ in range(int(rng.integers(1, 6))):
        color = list(COLORS.values())[int(rng.integers(len(COLORS)))]
        if rng.random() < 0.5:
            _stroke(draw, rng, color)
        else:
            x, y = rng.uniform(0, side, 2)
            radius = rng.uniform(2, 4.5)
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=color)


def _stroke(draw: ImageDraw.ImageDraw, rng: np.random.Generator, color: tuple[int, ...]) -> None:
    x, y = rng.uniform(0, SIDE * FINE, 2)
    length, angle = rng.uniform(10, 50), rng.uniform(0, 2 * math.pi)
    end = (x + length * math.cos(angle), y + length * math.sin(angle))
    draw.line([(x, y), end], fill=color, width=int(rng.integers(2, 6)))


def mask(thing: Thing, rng: np.random.Generator, side: int = SIDE * FINE) -> Image.Image:
    """Draw an object's own pixels, `[side, side]` fine ones, 255 where it is."""
    drawn = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(drawn)
    x, y, r = thing.x * FINE, thing.y * FINE, thing.radius * FINE
    if thing.kind in ("circle", "ring"):
        draw.ellipse([x - r, y - r, x + r, y + r], fill=255)
        if thing.kind == "ring":
            draw.ellipse([x - r * 0.55, y - r * 0.55, x + r * 0.55, y + r * 0.55], fill=0)
    elif thing.kind in SHAPES:
        turn = rng.uniform(-0.25, 0.25)
        draw.polygon([(x + px, y + py) for px, py in _outline(thing.kind, r, turn)], fill=255)
    else:
        stroke = int(rng.integers(1, 3))
        draw.text((x, y), thing.kind, fill=255, font=_font(int(r * 2.55)), anchor="mm", stroke_width=stroke)
    return drawn


def _outline(kind: str, r: float, turn: float) -> Points:
    """Return a shape's corners around the origin."""
    if kind == "square":
        return [_polar(r, turn + math.pi / 4 + k * math.pi / 2) for k in range(4)]
    if kind == "triangle":
        return [_polar(r * 1.08, turn - math.pi / 2 + k * 2 * math.pi / 3) for k in range(3)]
    if kind == "star":
        return [_polar(r * (1.08 if k % 2 == 0 else 0.45), turn - math.pi / 2 + k * math.pi / 5) for k in range(10)]
    w = 0.34 * r
    corners = [
        (-w, -r),
        (w, -r),
        (w, -w),
        (r, -w),
        (r, w),
        (w, w),
        (w, r),
        (-w, r),
        (-w, w),
        (-r, w),
        (-r, -w),
        (-w, -w),
    ]
    cos, sin = math.cos(turn), math.sin(turn)
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in corners]


def _polar(r: float, angle: float) -> tuple[float, float]:
    return r * math.cos(angle), r * math.sin(angle)


@functools.lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
