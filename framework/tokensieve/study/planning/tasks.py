"""A task of a study, made and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokensieve.errors import StudyError, TokensieveError
from tokensieve.plugins.registry import Registry
from tokensieve.study.sampling import select_samples
from tokensieve.study.spec.entries import TaskEntry
from tokensieve.study.spec.study import Study
from tokensieve.tasks.base import Sample, Task


@dataclass(frozen=True, eq=False)
class PreparedTask:
    """A task of a study: as it was asked for, made, with its samples and the card of those that are asked."""

    asked: TaskEntry
    task: Task
    samples: Sequence[Sample]
    card: dict[str, Any]


def knows_needed(task: Task) -> bool:
    """Return whether a task can say which tokens an answer needs."""
    return type(task).needed is not Task.needed


def prepare_task(study: Study, number: int, registry: Registry) -> PreparedTask:
    """Make a task, once its samples can be read."""
    asked = study.tasks[number]
    place = study.location("tasks", number)
    try:
        task = asked.build(registry)
        samples = task.samples()
        card = task.card()
    except TokensieveError as error:
        raise type(error)(f"{error}{place}") from None
    if not samples:
        raise StudyError(f"the task '{asked.name}' has no samples{place}")
    if len({sample.id for sample in samples}) < len(samples):
        raise StudyError(f"the task '{asked.name}' has two samples of one id{place}")
    some = len(select_samples(samples, study.limit))
    return PreparedTask(asked, task, samples, card | ({"samples": some} if some < len(samples) else {}))
