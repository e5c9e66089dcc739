"""The task of the embedded world."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from pydantic import Field, field_validator

from tokensieve.tasks.base import Answer, Sample, Task
from tokensieve.tasks.world.questions import TYPES, Question, questions
from tokensieve.tasks.world.scenes import FINE, SIDE, Density, Scene, Split, scene

_drawn = functools.lru_cache(maxsize=512)(scene)


@functools.lru_cache(maxsize=4096)
def _asked(split: Split, density: Density, number: int, most: int, types: tuple[str, ...]) -> Sequence[Question]:
    return questions(_drawn(split, number, density), f"{split} {density} {number}", most, types)


class World(Task):
    """Questions of one word about scenes drawn from a seed, of which the needed tokens are known.

    Attributes:
        split: which scenes; the embedded models were trained on `train`, and watched on `validation`.
        density: `sparse` scenes have 4 to 7 objects, `dense` ones 8 to 14, `all` 4 to 14.
        pictures: how many scenes.
        per_picture: how many questions a scene at most; fewer where it offers fewer.
        types: the types of questions, asked in turn.
        first: the number of the first scene.
    """

    name = "world"
    metric: str = "correct"

    split: Split = "test"
    density: Density = "dense"
    pictures: int = Field(default=150, ge=1)
    per_picture: int = Field(default=9, ge=1)
    types: tuple[str, ...] = TYPES
    first: int = Field(default=0, ge=0)

    @field_validator("types", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        """Take a list as YAML writes it, of known types."""
        if not isinstance(value, (list, tuple)):
            return value
        unknown = [one for one in value if one not in TYPES]
        if unknown or not value:
            raise ValueError(f"{unknown or 'an empty list'} is no type of question; there are {', '.join(TYPES)}")
        return tuple(value)

    def samples(self) -> Sequence[Sample]:
        """Draw the questions of every scene."""
        return [
            Sample(f"{number}:{place}", _spoken(one.text), str(number), (one.answer,), one.type)
            for number in range(self.first, self.first + self.pictures)
            for place, one in enumerate(self._questions(number))
        ]

    def picture(self, sample: Sample) -> Image.Image:
        """Draw the scene, 96 x 96 pixels."""
        return Image.fromarray(self._scene(int(sample.image)).pixels)

    def grade(self, sample: Sample, answer: Answer, unpruned: Answer | None) -> Mapping[str, float]:
        """Return whether the answer is the word."""
        return {"correct": float(answer.text.strip().lower() in sample.answers)}

    def needed(self, sample: Sample, rows: int, columns: int) -> frozenset[int] | None:
        """Return the cells of the asked objects.

        None where the answer is that there are no such objects, and for a grid that does not divide the picture.
        """
        if FINE * SIDE % rows or FINE * SIDE % columns:
            return None
        number, place = (int(part) for part in sample.id.split(":"))
        things = self._questions(number)[place].things
        return self._scene(number).cells(things, rows, columns) if things else None

    def card(self) -> dict[str, Any]:
        """Return the protocol, with what the first scenes look like: another drawing library may draw otherwise."""
        digest = hashlib.sha256()
        for number in range(4):
            digest.update(self._scene(number).pixels.tobytes())
        return {**super().card(), "drawn": digest.hexdigest()[:12]}

    def _scene(self, number: int) -> Scene:
        return _drawn(self.split, number, self.density)

    def _questions(self, number: int) -> Sequence[Question]:
        return _asked(self.split, self.density, number, self.per_picture, self.types)


def _spoken(text: str) -> str:
    """Write a question as people do, without a space before its mark."""
    return text.replace(" ?", "?")
