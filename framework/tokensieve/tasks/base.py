"""What a model is asked: samples, how an answer is graded, and the protocol that makes numbers comparable."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from tokensieve.models.pictures import ImageOrVideo, Video


@dataclass(frozen=True)
class Sample:
    """A question about a picture or a video.

    Attributes:
        id: its name, unique in the task.
        question: what is asked, as the user's turn.
        image: the picture's or the video's name in the task; samples of the same name share it.
        answers: what counts as right; empty where the task needs no labels.
        kind: the type of question, for breakdowns; empty where there are none.
        choices: the answers to choose among, or empty for open questions.
        video: where the frames are, in order: their names in the task, or that of the one folder they are in. Empty
            for a picture.
    """

    id: str
    question: str
    image: str
    answers: tuple[str, ...] = ()
    kind: str = ""
    choices: tuple[str, ...] = ()
    video: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model answered.

    Attributes:
        text: decoded, without special tokens and surrounding space.
        logits: float32 `[vocabulary]` on the CPU, of the first answered token; none unless the task asks for it.
    """

    text: str
    logits: Tensor | None = None


class Task(BaseModel):
    """A set of samples and a way to grade answers. Its fields are its protocol.

    Subclass it, give it a `name` and its `metric` a default, and register it by `registry.add_task(cls)` in the
    hook `register_tasks`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: ClassVar[str]
    """What studies call it: a Python identifier."""
    version: ClassVar[int] = 1
    """Raised whenever the same fields mean another protocol; it is part of the card."""
    compares: ClassVar[bool] = False
    """Whether answers are graded against the unpruned model's, of which `grade` then gets one with logits."""

    metric: str
    """The name of the grade that counts, one of those that `grade` gives, in [0, 1] and higher is better.

    A task gives it a default; one with several grades that could count lets a study choose.
    """
    longest: int = Field(default=1, ge=1)
    """How many tokens an answer may have."""

    if TYPE_CHECKING:

        def __hash__(self) -> int: ...

    @abstractmethod
    def samples(self) -> Sequence[Sample]:
        """Return the samples, always the same ones in the same order.

        Raises:
            TaskError: if what they are made of cannot be read; says which file and line.
        """

    @abstractmethod
    def picture(self, sample: Sample) -> Image.Image:
        """Return a sample's picture, RGB; of a video one that stands for it where a page has room for one.

        Raises:
            TaskError: if it cannot be read. It costs that sample's cell only.
        """

    def video(self, sample: Sample) -> Video | None:
        """Return a sample's video, or none where it is about a picture.

        Raises:
            TaskError: if it cannot be read. It costs that sample's cell only.
        """
        return None

    def shown(self, sample: Sample) -> ImageOrVideo:
        """Return what a model is shown: the sample's video if it has one, else its picture.

        Raises:
            TaskError: if it cannot be read. It costs that sample's cell only.
        """
        video = self.video(sample)
        return self.picture(sample) if video is None else video

    @abstractmethod
    def grade(self, sample: Sample, answer: Answer, unpruned: Answer | None) -> Mapping[str, float]:
        """Grade an answer.

        Args:
            sample: what was asked.
            answer: what was answered.
            unpruned: what the unpruned model answered, where the task compares; none otherwise.

        Returns:
            Grades by name, always the same names, `metric` among them.
        """

    def summary(self, grades: Mapping[str, NDArray[np.float64]]) -> Mapping[str, float]:
        """Return what the grades of many samples come to: their means, where a measure is nothing else.

        A task whose measures are no means of samples, such as F1, gives those too.

        Args:
            grades: by name what `grade` gave, float64 `[samples]`, of at least one sample.

        Returns:
            Measures by name. That of the metric is its mean, for this is what methods are compared by.
        """
        return {name: float(values.mean()) for name, values in grades.items()}

    def needed(self, sample: Sample, rows: int, columns: int) -> Collection[int] | None:
        """Return the visual tokens that an answer needs, or none where that is not known.

        Args:
            sample: what is asked.
            rows: of the grid of the picture's visual tokens.
            columns: of it.

        Returns:
            Ids of tokens, row by row.
        """
        return None

    def card(self) -> dict[str, Any]:
        """Return the protocol: everything that must agree before two numbers may stand in one table.

        A task that reads files adds what identifies their content.
        """
        return {"task": self.name, "version": self.version, **self.model_dump(mode="json")}

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy, with other values for some fields, which are not checked.

        What a task remembers of its files (a `cached_property`) stays behind: the copy may be of others.
        """
        copied = super().model_copy(update=update, deep=deep)
        content = vars(copied)
        for name in set(content) - set(type(self).model_fields):
            del content[name]
        return copied

    def hash(self) -> str:
        """Return twelve hex digits that stand for the card."""
        text = json.dumps(self.card(), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def columns(grades: Sequence[Mapping[str, float]]) -> dict[str, NDArray[np.float64]]:
    """Return the grades of samples as `Task.summary` takes them: by name, float64 `[samples]`.

    Args:
        grades: what `Task.grade` gave, at least one, all of the same names.
    """
    return {name: np.array([one[name] for one in grades], dtype=np.float64) for name in grades[0]}
