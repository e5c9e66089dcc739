"""The tasks of the embedded world: pictures, several of them, signs, clips and second questions, drawn from a seed."""

from __future__ import annotations

import functools
import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image
from pydantic import Field, field_validator

from tokensieve.models.pictures import Images, Video
from tokensieve.tasks.base import Answer, Sample, Task, Turn
from tokensieve.tasks.world.clips import FRAMES, Clip, clip
from tokensieve.tasks.world.questions import ATTRIBUTES, SIGN_TYPES, TYPES, Question, questions
from tokensieve.tasks.world.scenes import FINE, SIDE, Density, Scene, Split, scene
from tokensieve.tasks.world.several import (
    CLIP_TYPES,
    PICTURES_TYPES,
    questions_about_clip,
    questions_about_pictures,
)
from tokensieve.tasks.world.signs import signs

_scene = functools.lru_cache(maxsize=512)(scene)
_signs = functools.lru_cache(maxsize=512)(signs)
_clip = functools.lru_cache(maxsize=128)(clip)
_EVERY = 1_000_000
"""More questions than any picture has."""


class Drawn(Task):
    """Questions of one word about what is drawn from a seed.

    Attributes:
        split: which drawings; the embedded models were trained on `train`, and watched on `validation`.
        pictures: how many pictures, clips or prompts.
        per_picture: how many questions about each at most; fewer where it offers fewer.
        types: the types of questions, asked in turn.
        first: the number of the first picture, clip or prompt.
    """

    metric: str = "correct"
    every_type: ClassVar[tuple[str, ...]]
    """The types of questions that there are."""

    split: Split = "test"
    pictures: int = Field(default=150, ge=1)
    per_picture: int = Field(default=9, ge=1)
    types: tuple[str, ...]
    first: int = Field(default=0, ge=0)

    @field_validator("types", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        """Take a list as YAML writes it, of known types."""
        if not isinstance(value, (list, tuple)):
            return value
        unknown = [one for one in value if one not in cls.every_type]
        if unknown or not value:
            raise ValueError(
                f"{unknown or 'an empty list'} is no type of question; there are {', '.join(cls.every_type)}"
            )
        return tuple(value)

    @abstractmethod
    def questions(self, number: int) -> Sequence[Question]:
        """Draw the questions about a number."""

    @abstractmethod
    def pixels(self, number: int) -> bytes:
        """Return all pixels of a number, by which another drawing library is noticed."""

    def samples(self) -> Sequence[Sample]:
        """Draw the questions."""
        return [
            sample
            for number in range(self.first, self.first + self.pictures)
            for place, one in enumerate(self.questions(number))
            for sample in self._asked(number, place, one)
        ]

    def _asked(self, number: int, place: int, one: Question) -> Iterator[Sample]:
        yield Sample(f"{number}:{place}", _spoken(one.text), str(number), (one.answer,), one.type)

    def grade(self, sample: Sample, answer: Answer, unpruned: Answer | None) -> Mapping[str, float]:
        """Return whether the answer is the word."""
        return {"correct": float(answer.text.strip().lower() in sample.answers)}

    def card(self) -> dict[str, Any]:
        """Return the protocol, with what the first ones look like: another drawing library may draw otherwise."""
        digest = hashlib.sha256()
        for number in range(4):
            digest.update(self.pixels(number))
        return {**super().card(), "drawn": digest.hexdigest()[:12]}


class World(Drawn):
    """Questions of one word about scenes drawn from a seed, of which the needed tokens are known.

    Attributes:
        split: which scenes; the embedded models were trained on `train`, and watched on `validation`.
        density: `sparse` scenes have 4 to 7 objects, `dense` ones 8 to 14, `all` 4 to 14.
        pictures: how many scenes.
        per_picture: how many questions a scene at most; fewer where it offers fewer.
        types: the types of questions, asked in turn.
        first: the number of the first scene.
        half: `top` or `bottom` asks only what needs objects of that half of the picture; by default all is asked.
    """

    name = "world"
    every_type: ClassVar[tuple[str, ...]] = TYPES

    density: Density = "dense"
    types: tuple[str, ...] = TYPES
    half: Literal["top", "bottom"] | None = None

    def questions(self, number: int) -> Sequence[Question]:
        """Draw the questions about a scene."""
        most = self.per_picture if self.half is None else _EVERY
        asked = _ask(type(self)._draw, self.split, self.density, number, most, self.types)
        if self.half is None:
            return asked
        things = self.scene(number).things
        inside = [(thing.y < SIDE / 2) == (self.half == "top") for thing in things]
        return [one for one in asked if one.things and all(inside[n] for n in one.things)][: self.per_picture]

    def card(self) -> dict[str, Any]:
        """Return the protocol; of halves only if one is asked about, so that results of before have the same card."""
        card = super().card()
        return card if self.half is not None else {name: value for name, value in card.items() if name != "half"}

    def pixels(self, number: int) -> bytes:
        """Return the pixels of a scene."""
        return self.scene(number).pixels.tobytes()

    def scene(self, number: int) -> Scene:
        """Return a drawing of which all is known."""
        return type(self)._draw(self.split, number, self.density)

    @staticmethod
    def _draw(split: Split, number: int, density: Density) -> Scene:
        return _scene(split, number, density)

    def picture(self, sample: Sample) -> Image.Image:
        """Draw the picture, 96 x 96 pixels."""
        return Image.fromarray(self.scene(int(sample.image)).pixels)

    def needed(self, sample: Sample, rows: int, columns: int) -> frozenset[int] | None:
        """Return the cells of the asked objects.

        None where the answer is that there are no such objects, and for a grid that does not divide the picture.
        """
        if FINE * SIDE % rows or FINE * SIDE % columns:
            return None
        number, place = (int(part) for part in sample.id.split(":"))
        things = self.questions(number)[place].things
        return self.scene(number).cells(things, rows, columns) if things else None


class WorldText(World):
    """Questions about the words on coloured signs, in four fonts of 9 to 12 pixels.

    A word covers four to twelve visual tokens of `world-qwen-wide`, each of which holds hardly more than a letter.

    Attributes:
        split: which pictures.
        density: `sparse` pictures have 2 to 4 signs, `dense` ones 5 to 8, `all` 2 to 8.
        pictures: how many pictures.
        per_picture: how many questions about a picture at most.
        types: the types of questions, asked in turn.
        first: the number of the first picture.
        half: as for `world`.
    """

    name = "world_text"
    every_type = SIGN_TYPES

    types: tuple[str, ...] = SIGN_TYPES

    @staticmethod
    def _draw(split: Split, number: int, density: Density) -> Scene:
        return _signs(split, number, density)


class WorldTurns(World):
    """Second questions, about objects that the first question did not ask for.

    The model is pruned at the first question, and the second is answered from the same key-value cache. The first
    answer is the right one, whatever a model would have said, so that all methods are asked the same.

    Attributes:
        split: which scenes.
        density: as for `world`.
        pictures: how many scenes.
        per_picture: how many second questions about a scene at most.
        types: the types of both questions.
        first: the number of the first scene.
        half: as for `world`; both questions are about it then.
    """

    name = "world_turns"
    types: tuple[str, ...] = ATTRIBUTES

    def _asked(self, number: int, place: int, one: Question) -> Iterator[Sample]:
        # The next question that needs other objects; every one has a turn as the first question.
        every = self.questions(number)
        for other in (*every[place + 1 :], *every[:place]):
            if one.things and other.things and not {*one.things} & {*other.things}:
                [plain] = super()._asked(number, place, one)
                turns = (Turn(_spoken(other.text), other.answer),)
                yield Sample(plain.id, plain.question, plain.image, plain.answers, plain.kind, turns=turns)
                return


class WorldPictures(Drawn):
    """Questions about several scenes in one prompt: about all of them together, or about one that is named.

    Attributes:
        split: which scenes.
        density: as for `world`.
        together: how many scenes a prompt has, 2 or 3.
        pictures: how many prompts.
        per_picture: how many questions about a prompt's scenes at most.
        types: the types of questions, asked in turn.
        first: the number of the first prompt.
    """

    name = "world_pictures"
    every_type = PICTURES_TYPES

    density: Density = "sparse"
    together: int = Field(default=2, ge=2, le=3)
    types: tuple[str, ...] = PICTURES_TYPES

    def _scenes(self, number: int) -> list[Scene]:
        numbers = range(number * self.together, (number + 1) * self.together)
        return [_scene(self.split, one, self.density) for one in numbers]

    def questions(self, number: int) -> Sequence[Question]:
        """Draw the questions about the scenes of a prompt."""
        seed = f"{self.split} {self.density} {self.together} {number}"
        things = [one.things for one in self._scenes(number)]
        return questions_about_pictures(things, seed, self.per_picture, self.types)

    def pixels(self, number: int) -> bytes:
        """Return the pixels of the scenes of a prompt."""
        return b"".join(one.pixels.tobytes() for one in self._scenes(number))

    def several_images(self, sample: Sample) -> Images:
        """Draw the scenes, each 96 x 96 pixels."""
        return Images(tuple(Image.fromarray(one.pixels) for one in self._scenes(int(sample.image))))

    def picture(self, sample: Sample) -> Image.Image:
        """Draw the scenes side by side, for pages."""
        return Image.fromarray(np.concatenate([one.pixels for one in self._scenes(int(sample.image))], axis=1))


class WorldVideo(Drawn):
    """Questions about short videos: which way an object goes, what appears first or last, how many things appear.

    Attributes:
        split: which clips.
        pictures: how many clips.
        per_picture: how many questions about a clip at most.
        types: the types of questions, asked in turn.
        first: the number of the first clip.
    """

    name = "world_video"
    every_type = CLIP_TYPES

    types: tuple[str, ...] = CLIP_TYPES

    def _clip(self, number: int) -> Clip:
        return _clip(self.split, number)

    def questions(self, number: int) -> Sequence[Question]:
        """Draw the questions about a clip."""
        return questions_about_clip(self._clip(number), f"{self.split} {number}", self.per_picture, self.types)

    def pixels(self, number: int) -> bytes:
        """Return the pixels of a clip."""
        return self._clip(number).frames.tobytes()

    def video(self, sample: Sample) -> Video:
        """Draw the clip: eight frames of 64 x 64 pixels."""
        return Video(tuple(Image.fromarray(frame) for frame in self._clip(int(sample.image)).frames))

    def picture(self, sample: Sample) -> Image.Image:
        """Draw the first and the last frame side by side, for pages."""
        frames = self._clip(int(sample.image)).frames
        return Image.fromarray(np.concatenate([frames[0], frames[FRAMES - 1]], axis=1))


@functools.lru_cache(maxsize=4096)
def _ask(
    draw: Any, split: Split, density: Density, number: int, most: int, types: tuple[str, ...]
) -> Sequence[Question]:
    return questions(draw(split, number, density), f"{split} {density} {number}", most, types)


def _spoken(text: str) -> str:
    """Write a question as people do, without a space before its mark."""
    return text.replace(" ?", "?")
