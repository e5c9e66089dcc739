"""Clips: short videos in which some objects move and others appear, on the grounds of scenes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tokensieve.tasks.world.scenes import FINE, SIDE, SPLITS, Split, Thing, ground, mask
from tokensieve.tasks.world.words import COLORS, DIRECTIONS, KINDS

CLIP_SIDE = 64
"""Pixels along a frame's side."""
FRAMES = 8
"""Frames of a clip."""
STARTS = (1, 3, 5)
"""Frames in which objects appear: each the second of a pair, as Qwen2-VL encodes two frames together."""
SPEEDS = (1.4, 2.2)
"""Pixels that a moving object goes from frame to frame."""
_STEPS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0), "nowhere": (0.0, 0.0)}
_SEED = 11


@dataclass(frozen=True)
class Event:
    """What an object of a clip does.

    Attributes:
        direction: one of `DIRECTIONS`.
        since: the frame from which it is seen; 0 if it is always there.
    """

    direction: str
    since: int


@dataclass(frozen=True, eq=False)
class Clip:
    """A short video, and what happens in it.

    Attributes:
        frames: uint8 `[FRAMES, CLIP_SIDE, CLIP_SIDE, 3]`.
        things: its objects, with their places in the first frame.
        events: what each does.
        owner: uint8 `[FRAMES, FINE * CLIP_SIDE, FINE * CLIP_SIDE]`: 1 + the number of the object at a fine pixel, or 0.
    """

    frames: NDArray[np.uint8]
    things: tuple[Thing, ...]
    events: tuple[Event, ...]
    owner: NDArray[np.uint8]


def clip(split: Split, number: int) -> Clip:
    """Draw the clip of a number. The same arguments always give the same clip.

    Args:
        split: clips of different splits have nothing to do with each other.
        number: which, from 0.
    """
    rng = np.random.default_rng([_SEED, SPLITS.index(split), number])
    side = CLIP_SIDE * FINE
    corner = rng.integers(0, SIDE - CLIP_SIDE + 1, 2)
    whole = ground(rng)[corner[0] : corner[0] + CLIP_SIDE, corner[1] : corner[1] + CLIP_SIDE]
    back = Image.fromarray(whole).resize((side, side), Image.Resampling.NEAREST)
    wanted = int(rng.integers(3, 6))
    colors = rng.choice(len(COLORS), size=wanted, replace=False)
    kinds = rng.choice(len(KINDS), size=wanted, replace=False)
    starts = list(rng.permutation(STARTS)[: int(rng.integers(0, 4))])
    paths: list[tuple[Thing, Event, tuple[float, float]]] = []
    for color, kind in zip(colors, kinds, strict=True):
        if starts:
            event = Event("nowhere", int(starts.pop()))
        else:
            event = Event(DIRECTIONS[int(rng.integers(len(DIRECTIONS)))], 0)
        speed = rng.uniform(*SPEEDS)
        step = (_STEPS[event.direction][0] * speed, _STEPS[event.direction][1] * speed)
        radius = float(rng.uniform(6.5, 8.5))
        start = _place(rng, radius, step, paths)
        if start is not None:
            paths.append((Thing(list(COLORS)[int(color)], KINDS[int(kind)], *start, radius), event, step))
    shades = [
        tuple(int(np.clip(value + rng.normal() * 9, 0, 255)) for value in COLORS[thing.color]) for thing, _, _ in paths
    ]
    masks = [mask(thing, rng, side) for thing, _, _ in paths]
    frames, owners = [], []
    for time in range(FRAMES):
        frame, owner = back.copy(), np.zeros((side, side), np.uint8)
        for place, ((_, event, step), shade, still) in enumerate(zip(paths, shades, masks, strict=True)):
            if time < event.since:
                continue
            moved = Image.new("L", (side, side), 0)
            moved.paste(still, (round(step[0] * time * FINE), round(step[1] * time * FINE)))
            frame.paste(shade, (0, 0), moved)
            owner[np.asarray(moved) > 127] = place + 1
        frames.append(np.asarray(frame.resize((CLIP_SIDE, CLIP_SIDE), Image.Resampling.BOX)))
        owners.append(owner)
    return Clip(np.stack(frames), tuple(p[0] for p in paths), tuple(p[1] for p in paths), np.stack(owners))


def _place(
    rng: np.random.Generator,
    radius: float,
    step: tuple[float, float],
    others: list[tuple[Thing, Event, tuple[float, float]]],
) -> tuple[float, float] | None:
    """Find a start from which an object's path is inside the frame and crosses no other path; none if there is none."""
    own = _swept(0.0, 0.0, radius, step)
    for _ in range(60):
        x = float(rng.uniform(0.5 - own[0], CLIP_SIDE - 0.5 - own[2]))
        y = float(rng.uniform(0.5 - own[1], CLIP_SIDE - 0.5 - own[3]))
        left, top, right, bottom = own[0] + x, own[1] + y, own[2] + x, own[3] + y
        boxes = [_swept(thing.x, thing.y, thing.radius, its) for thing, _, its in others]
        if all(left > b[2] or right < b[0] or top > b[3] or bottom < b[1] for b in boxes):
            return x, y
    return None


def _swept(x: float, y: float, radius: float, step: tuple[float, float]) -> tuple[float, float, float, float]:
    """Return the box that an object covers in the whole clip: left, top, right, bottom."""
    reach = radius * 1.12
    dx, dy = (value * (FRAMES - 1) for value in step)
    return x + min(0.0, dx) - reach, y + min(0.0, dy) - reach, x + max(0.0, dx) + reach, y + max(0.0, dy) + reach
