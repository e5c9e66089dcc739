"""The task `fidelity`: how far a pruned model's answers are from the unpruned one's. It needs no labels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
from PIL import Image
from pydantic import Field, field_validator
from torch import Tensor

from tokensieve.errors import TaskError, did_you_mean
from tokensieve.tasks import files
from tokensieve.tasks.base import Answer, Sample, Task

AGREEMENTS = ("answer_agreement", "top1_agreement")


class Agreement(Task):
    """How far answers are from those of the unpruned model, about pictures that a subclass names and reads.

    Its grades are `top1_agreement` (1 if the most likely first token is the same in both models), `answer_agreement`
    (1 if their whole answers are the same text) and `kl` (in nats, KL(unpruned || pruned) of the first token's
    distributions; lower is better).

    The metric is `top1_agreement` unless a study chooses `answer_agreement`. It does not depend on `longest`, and one
    different token can neither be offset nor be made worse by later tokens. Agreement is not quality: if the unpruned
    model is wrong, a method that is right disagrees.

    Attributes:
        prompts: the questions about every picture.
        metric: `top1_agreement` or `answer_agreement`.
        longest: the most tokens of an answer.
        longest_side: in pixels; larger pictures are shrunk to it, none is enlarged.
        subset: how many pictures are drawn; by default all of them.
        subset_seed: the seed of the draw.
    """

    compares = True

    prompts: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False, min_length=1)] = (
        "Describe the image.",
    )
    metric: str = "top1_agreement"
    longest_side: int | None = Field(default=None, ge=1)
    subset: int | None = Field(default=None, ge=1)
    subset_seed: int = 0

    @field_validator("metric")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in AGREEMENTS:
            raise ValueError(
                f"{cls.name} is counted by {' or '.join(AGREEMENTS)}, not '{value}'.{did_you_mean(value, AGREEMENTS)}"
            )
        return value

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Return the names of all pictures.

        Raises:
            TaskError: if there is none.
        """

    @abstractmethod
    def file(self, name: str) -> Path:
        """Return the file of a picture."""

    @abstractmethod
    def identity(self, names: Sequence[str]) -> str:
        """Return a hash that identifies pictures, in hex digits."""

    @cached_property
    def _pictures(self) -> tuple[str, ...]:
        names = self.names()
        if self.subset is None:
            return names
        if self.subset > len(names):
            raise TaskError(f"subset is {self.subset}, and '{self.name}' has {len(names)} pictures")
        chosen = files.drawn(names, self.subset, self.subset_seed)
        return tuple(name for name in names if name in chosen)

    @cached_property
    def _identity(self) -> str:
        """The hash of the pictures, computed once: there may be many pictures, and every cell has a card."""
        return self.identity(self._pictures)

    def samples(self) -> Sequence[Sample]:
        """Return a sample for every picture and prompt; ids are `picture#number`, and prompts are counted from 1.

        Raises:
            TaskError: if there is no picture.
        """
        return [
            Sample(id=f"{name}#{number}", question=prompt, image=name)
            for name in self._pictures
            for number, prompt in enumerate(self.prompts, 1)
        ]

    def picture(self, sample: Sample) -> Image.Image:
        """Return a sample's picture, RGB.

        Raises:
            TaskError: if it cannot be read.
        """
        return files.picture(self.file(sample.image), self.longest_side)

    def grade(self, sample: Sample, answer: Answer, unpruned: Answer | None) -> Mapping[str, float]:
        """Compare an answer with that of the unpruned model.

        Raises:
            TaskError: if the unpruned answer is missing, an answer has no logits, or the logits are of different
                vocabularies or not finite.
        """
        if unpruned is None or unpruned.logits is None or answer.logits is None:
            raise TaskError(f"'{self.name}' compares with the unpruned model, and needs the logits of both answers")
        return {
            "top1_agreement": float(unpruned.logits.argmax() == answer.logits.argmax()),
            "answer_agreement": float(unpruned.text == answer.text),
            "kl": divergence(unpruned.logits, answer.logits),
        }

    def card(self) -> dict[str, Any]:
        """Return the protocol, with a hash that identifies the pictures."""
        return super().card() | {
            "pictures": self._identity,
            "samples": len(self._pictures) * len(self.prompts),
            "subset_seed": None if self.subset is None else self.subset_seed,
        }


class Fidelity(Agreement):
    """How far answers are from those of the unpruned model, on any pictures and prompts.

    Its grades are those of [`Agreement`][tokensieve.tasks.fidelity.Agreement], as are its other settings.

    Attributes:
        images: a folder of pictures; pictures in its subfolders count, hidden files do not.
    """

    name = "fidelity"

    images: str

    @field_validator("images")
    @classmethod
    def _placed(cls, value: str) -> str:
        return files.absolute(value)

    def names(self) -> tuple[str, ...]:
        """Return the names of the pictures in the folder.

        Raises:
            TaskError: if there is no folder, or no picture in it.
        """
        return files.pictures_in(Path(self.images))

    def file(self, name: str) -> Path:
        """Return the file of a picture."""
        return Path(self.images) / name

    def identity(self, names: Sequence[str]) -> str:
        """Return a hash of the pictures' names and sizes."""
        return files.identity(Path(self.images), names)

    def card(self) -> dict[str, Any]:
        """Return the protocol, with a hash of the pictures' names and sizes instead of their folder."""
        card = super().card()
        del card["images"]
        return card


def divergence(unpruned: Tensor, pruned: Tensor) -> float:
    """Return KL(unpruned || pruned) of two next-token distributions, in nats.

    Args:
        unpruned: logits `[vocabulary]`; -inf rules a token out.
        pruned: logits `[vocabulary]` of the same vocabulary.

    Returns:
        At least 0; infinite if the pruned model rules out a token that the unpruned one does not.

    Raises:
        TaskError: if the vocabularies differ, or logits contain NaN or +inf, or are all -inf.
    """
    if unpruned.shape != pruned.shape or unpruned.ndim != 1:
        raise TaskError(
            f"logits of one token and one vocabulary are compared, not {list(unpruned.shape)} and {list(pruned.shape)}"
        )
    p, q = (logits.double().log_softmax(dim=0) for logits in (unpruned, pruned))
    for who, log in (("unpruned", p), ("pruned", q)):
        if log.isnan().any():
            raise TaskError(f"the {who} model's logits are no numbers, so their distributions cannot be compared")
    # 0 log 0 is 0: tokens that the unpruned model rules out add nothing.
    terms = torch.where(p.isneginf(), 0.0, p.exp() * (p - q))
    # The sum of rounded terms can fall below zero by a rounding error.
    return max(0.0, float(terms.sum()))
