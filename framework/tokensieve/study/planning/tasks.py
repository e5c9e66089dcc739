"""Tasks of a study, built and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokensieve.errors import StudyError, TokensieveError
from tokensieve.plugins.registry import Registry
from tokensieve.study.sampling import part_of, select_samples
from tokensieve.study.spec.entries import TaskEntry
from tokensieve.study.spec.study import Study
from tokensieve.tasks.base import Sample, Task


@dataclass(frozen=True, eq=False)
class PreparedTask:
    """A task of a study with its samples.

    Attributes:
        entry: the entry of the study.
        task: the task.
        samples: all samples of the task, or of the part that the study asks.
        card: the task's card; it has the part, and the number of samples where the study limits them.
    """

    entry: TaskEntry
    task: Task
    samples: Sequence[Sample]
    card: dict[str, Any]


def knows_needed_tokens(task: Task) -> bool:
    """Return whether a task can say which tokens an answer needs."""
    return type(task).needed is not Task.needed


def prepare_task(study: Study, index: int, registry: Registry) -> PreparedTask:
    """Build a task of a study, and read its samples.

    Raises:
        TokensieveError: if the samples cannot be read, there are none, or two have the same id.
    """
    entry = study.tasks[index]
    location = study.location("tasks", index)
    try:
        task = entry.build(registry)
        samples = task.samples()
        card = task.card()
    except TokensieveError as error:
        raise type(error)(f"{error}{location}") from None
    if not samples:
        raise StudyError(f"the task '{entry.name}' has no samples{location}")
    if len({sample.id for sample in samples}) < len(samples):
        raise StudyError(f"the task '{entry.name}' has two samples of one id{location}")
    samples = part_of(samples, entry.part)
    if entry.part is not None:
        low, high = entry.part
        if not samples:
            raise StudyError(f"the task '{entry.name}' has no picture in the part from {low} to {high}{location}")
        card |= {"part": f"pictures from {low} to {high} of all"}
    asked = len(select_samples(samples, study.limit))
    return PreparedTask(entry, task, samples, card | ({"samples": asked} if asked < len(samples) else {}))
