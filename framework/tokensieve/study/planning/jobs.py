"""The plan of a study as plain values: jobs, and the controls that do not apply."""

from __future__ import annotations

from dataclasses import dataclass

from tokensieve.algebra.budget import Keep
from tokensieve.study.rows import Cell
from tokensieve.study.spec.entries import ModelEntry, TaskEntry


@dataclass(frozen=True)
class Job:
    """A cell with what it takes to run it anywhere: plain values only.

    Attributes:
        cell: as it is known before it ran.
        model: what to load.
        task: what to ask.
        keep: the budget of a control that has no recipe.
        batch: samples in a forward pass.
        limit: samples of the task; all if none.
        share: whether cells share pictures that were encoded.
        plugins: modules to register first.
    """

    cell: Cell
    model: ModelEntry
    task: TaskEntry
    keep: Keep | None
    batch: int
    limit: int | None
    share: bool
    plugins: tuple[str, ...]


@dataclass(frozen=True)
class SkippedControl:
    """A control that does not apply.

    Attributes:
        model: in the study.
        role: of the control.
        of: the method it would belong to, or none.
        keep: the budget, or none where it holds for all.
        reason: why it does not apply.
    """

    model: str
    role: str
    of: str | None
    keep: str | None
    reason: str


@dataclass(frozen=True)
class Plan:
    """What a study comes to.

    Attributes:
        jobs: model by model, task by task.
        skipped: controls that do not apply, with the reason.
        notes: what is worth knowing: warnings of the review, methods that are the same.
        not_downloaded: models of the hub that are not here; their cells have no true keys yet.
    """

    jobs: tuple[Job, ...]
    skipped: tuple[SkippedControl, ...] = ()
    notes: tuple[str, ...] = ()
    not_downloaded: tuple[str, ...] = ()
