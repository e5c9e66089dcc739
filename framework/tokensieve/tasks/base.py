"""Tasks: samples, how answers are graded, and the protocol that makes results comparable."""

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
from pydantic import ConfigDict, Field, ValidationError
from torch import Tensor

from tokensieve.composers.settings import Value, unknown_setting
from tokensieve.errors import SettingError, first_mistake
from tokensieve.models.pictures import Images, Video, VisualInput


@dataclass(frozen=True)
class Turn:
    """A turn of a talk that has been.

    Attributes:
        question: what the user said.
        answer: what the model is taken to have said.
    """

    question: str
    answer: str


@dataclass(frozen=True)
class Sample:
    """A question about a picture, several pictures, or a video.

    Attributes:
        id: the name of the sample, unique in the task.
        question: the user's turn, the last one.
        image: the name of what is shown; samples with the same name share it.
        answers: the right answers; empty if the task needs no labels.
        kind: the type of question, for breakdowns; empty if there are no types.
        choices: the answers to choose from; empty for open questions.
        video: the names of the frames in the task, in order, or the name of their folder. Empty for a picture.
        images: the names of the pictures in the task, in order, if there are several.
        turns: the turns before the question. The prompt that the model prunes is that of the first of them; the others,
            and the question, are answered from its key-value cache, as in a chat that goes on.
    """

    id: str
    question: str
    image: str
    answers: tuple[str, ...] = ()
    kind: str = ""
    choices: tuple[str, ...] = ()
    video: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    turns: tuple[Turn, ...] = ()

    @property
    def first_question(self) -> str:
        """The user's turn that comes with what is shown."""
        return self.turns[0].question if self.turns else self.question


@dataclass(frozen=True, eq=False)
class Answer:
    """The answer of a model.

    Attributes:
        text: the decoded text, without special tokens and surrounding space.
        logits: of the first token of the answer, float32 `[vocabulary]` on the CPU; none unless the task compares.
    """

    text: str
    logits: Tensor | None = None


class Task(Value):
    """A set of samples and a way to grade answers. Its fields are its protocol.

    Subclass it, give it a `name` and its `metric` a default, and register it by `registry.add_task(cls)` in the
    hook `register_tasks`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: ClassVar[str]
    """The name in studies: a Python identifier."""
    version: ClassVar[int] = 1
    """Increased whenever the same fields mean another protocol; it is part of the card."""
    compares: ClassVar[bool] = False
    """Whether answers are compared with those of the unpruned model, which `grade` then gets, with logits.

    The name of its metric then ends in `agreement`, by which reports know that answers agree, and are not right.
    """

    metric: str
    """The name of the grade by which methods are compared. It is in [0, 1], and higher is better.

    A task sets a default. If several of its grades could be the metric, a study can choose one.
    """
    longest: int = Field(default=1, ge=1)
    """The most tokens of an answer."""

    if TYPE_CHECKING:

        def __hash__(self) -> int: ...

    @classmethod
    def refused(cls, error: ValidationError) -> SettingError:
        """Return the error for settings that are wrong."""
        who = f"the task '{getattr(cls, 'name', cls.__name__)}'"
        return SettingError(unknown_setting(who, cls.model_fields, error) or f"{who}: {first_mistake(error)}")

    @abstractmethod
    def samples(self) -> Sequence[Sample]:
        """Return the samples, always the same ones in the same order.

        Raises:
            TaskError: if a file cannot be read; the message names the file and the line.
        """

    @abstractmethod
    def picture(self, sample: Sample) -> Image.Image:
        """Return a sample's picture, RGB; of a video or several pictures one that stands for them, for pages.

        Raises:
            TaskError: if it cannot be read. It costs that sample's cell only.
        """

    def video(self, sample: Sample) -> Video | None:
        """Return a sample's video, or none if the sample is about a picture.

        Raises:
            TaskError: if it cannot be read. It costs that sample's cell only.
        """
        return None

    def several_images(self, sample: Sample) -> Images | None:
        """Return a sample's pictures if it is about several, or none.

        Raises:
            TaskError: if one cannot be read. It costs that sample's cell only.
        """
        return None

    def shown(self, sample: Sample) -> VisualInput:
        """Return the sample's video if it has one, its pictures if there are several, else its picture.

        Raises:
            TaskError: if it cannot be read. It costs that sample's cell only.
        """
        return self.video(sample) or self.several_images(sample) or self.picture(sample)

    @abstractmethod
    def grade(self, sample: Sample, answer: Answer, unpruned: Answer | None) -> Mapping[str, float]:
        """Grade an answer.

        Args:
            sample: the question.
            answer: the answer to grade.
            unpruned: the answer of the unpruned model if the task compares; else none.

        Returns:
            Grades by name, always of the same names, which include `metric`.
        """

    def summary(self, grades: Mapping[str, NDArray[np.float64]]) -> Mapping[str, float]:
        """Return measures of many samples: by default the means of the grades.

        A task can add measures that are not means of samples, such as F1.

        Args:
            grades: the grades by name, float64 `[samples]`, of at least one sample.

        Returns:
            Measures by name. The measure of the metric must be its mean, by which methods are compared.
        """
        return {name: float(values.mean()) for name, values in grades.items()}

    def needed(self, sample: Sample, rows: int, columns: int) -> Collection[int] | None:
        """Return the visual tokens that an answer needs, or none if that is not known.

        Args:
            sample: the question.
            rows: how many rows the grid of the picture's visual tokens has.
            columns: how many columns it has.

        Returns:
            Ids of tokens, row by row.
        """
        return None

    def card(self) -> dict[str, Any]:
        """Return the protocol: everything that must agree before two results may be compared.

        A task that reads files adds what identifies the content of the files.
        """
        return {"task": self.name, "version": self.version, **self.model_dump(mode="json")}

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with other values for some fields, which are not checked.

        Values of a `cached_property` are not copied: the copy may read other files.
        """
        copied = super().model_copy(update=update, deep=deep)
        content = vars(copied)
        for name in set(content) - set(type(self).model_fields):
            del content[name]
        return copied

    def hash(self) -> str:
        """Return twelve hex digits of a hash of the card."""
        text = json.dumps(self.card(), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def columns(grades: Sequence[Mapping[str, float]]) -> dict[str, NDArray[np.float64]]:
    """Return the grades of samples by name, float64 `[samples]`, as `Task.summary` takes them.

    Args:
        grades: of each sample, as `Task.grade` returns them; at least one, all with the same names.
    """
    return {name: np.array([one[name] for one in grades], dtype=np.float64) for name in grades[0]}
