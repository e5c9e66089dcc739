"""The training scenes of the shipped models, drawn once and stored in a folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from tokensieve.tasks.world.questions import Question, questions
from tokensieve.tasks.world.scenes import COVERED, SIDE, Density, Scene, Split, Thing, scene
from tokensieve.tasks.world.words import COLORS, KINDS

ROWS = COLUMNS = 12
"""The rows and columns of visual tokens in both shipped models."""
TOKENS = ROWS * COLUMNS
GROUND = -1
MEAN, STD = 0.48, 0.27
"""Mean and standard deviation of pixels, also for the models' processors."""


@dataclass(frozen=True, eq=False)
class Scenes:
    """Scenes as arrays.

    Attributes:
        pixels: uint8 `[scenes, SIDE, SIDE, 3]`.
        owner: int8 `[scenes, TOKENS]`: which object covers most of a cell, or `GROUND`.
        things: the objects of each.
    """

    pixels: np.ndarray
    owner: np.ndarray
    things: list[list[Thing]]

    def __len__(self) -> int:
        return len(self.things)

    def images(self, which: np.ndarray) -> Tensor:
        """Return normalised pictures, float32 `[n, 3, SIDE, SIDE]`."""
        chosen = torch.from_numpy(self.pixels[which]).permute(0, 3, 1, 2).float()
        return (chosen / 255 - MEAN) / STD

    def labels(self, which: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the colour and the kind of every cell, int64 `[n, TOKENS]`; last plus one for background."""
        colors = torch.full((len(which), TOKENS), len(COLORS))
        kinds = torch.full((len(which), TOKENS), len(KINDS))
        for row, number in enumerate(which):
            owner = torch.from_numpy(self.owner[number])
            for index, thing in enumerate(self.things[number]):
                colors[row, owner == index] = list(COLORS).index(thing.color)
                kinds[row, owner == index] = KINDS.index(thing.kind)
        return colors, kinds

    def centers(self, which: np.ndarray) -> Tensor:
        """Return 1 for cells that hold the centre of an object, else 0, float32 `[n, TOKENS]`."""
        centers = torch.zeros(len(which), TOKENS)
        for row, number in enumerate(which):
            for thing in self.things[number]:
                centers[row, int(thing.y * ROWS / SIDE) * COLUMNS + int(thing.x * COLUMNS / SIDE)] = 1
        return centers

    def questions(self, number: int, seed: str, most: int) -> list[Question]:
        """Return random questions about a scene; see `tokensieve.tasks.world.questions`."""
        return questions(Scene(self.pixels[number], tuple(self.things[number]), np.empty(0, np.uint8)), seed, most)


def scenes(folder: Path, split: Split, count: int, density: Density = "all") -> Scenes:
    """Return scenes 0 to `count` - 1 of a split, from the folder if they are stored there."""
    stem = folder / f"{split}-{density}-{count}"
    if not stem.with_suffix(".json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((count, SIDE, SIDE, 3), np.uint8)
        owner = np.full((count, TOKENS), GROUND, np.int8)
        things = []
        for number in track(range(count), description=f"drawing {split} scenes", transient=True):
            drawn = scene(split, number, density)
            covered = drawn.coverage(ROWS, COLUMNS)
            pixels[number] = drawn.pixels
            owner[number] = np.where(covered.max(axis=0) >= COVERED, covered.argmax(axis=0), GROUND)
            things.append([asdict(thing) for thing in drawn.things])
        np.savez(stem.with_suffix(".npz"), pixels=pixels, owner=owner)
        stem.with_suffix(".json").write_text(json.dumps(things), encoding="utf-8")
    arrays = np.load(stem.with_suffix(".npz"))
    things_ = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
    return Scenes(arrays["pixels"], arrays["owner"], [[Thing(**thing) for thing in one] for one in things_])
