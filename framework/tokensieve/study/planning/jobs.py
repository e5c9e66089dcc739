"""The plan of a study as plain values: its jobs, and the controls that do not apply."""

from __future__ import annotations

from dataclasses import dataclass

from tokensieve.algebra.budget import Keep
from tokensieve.study.rows import Cell
from tokensieve.study.spec.entries import ModelEntry, TaskEntry

PLANNED = ("key", "model", "task", "method", "keep", "seed")
"""What a plan says about each of its cells."""


@dataclass(frozen=True)
class Job:
    """A cell with everything that a process needs to run it, as plain values.

    Attributes:
        cell: the cell, as far as it is known before it runs.
        model: the model to load.
        task: the task to ask.
        keep: the budget of a control without a recipe, or none.
        batch: the number of samples in a forward pass.
        limit: the number of samples of the task, or none for all.
        share: whether cells share encoded images.
        plugins: the modules to register first.
    """

    cell: Cell
    model: ModelEntry
    task: TaskEntry
    keep: Keep | None
    batch: int
    limit: int | None
    share: bool
    plugins: tuple[str, ...]

    @property
    def planned(self) -> dict[str, str | int | None]:
        """Return what a plan says about the cell."""
        return {name: getattr(self.cell, name) for name in PLANNED}


@dataclass(frozen=True)
class SkippedControl:
    """A control that does not apply.

    Attributes:
        model: the name of the model in the study.
        role: the kind of control.
        of: the method that the control would belong to, or none.
        keep: the budget, or none for all budgets.
        reason: why the control does not apply.
    """

    model: str
    role: str
    of: str | None
    keep: str | None
    reason: str


@dataclass(frozen=True)
class Plan:
    """The plan of a study.

    Attributes:
        jobs: the jobs, model by model and task by task.
        skipped: the controls that do not apply, with the reason.
        notes: warnings of the review, methods that are the same, and the like.
        not_downloaded: models of the hub that are not downloaded. The keys of their cells are not final.
    """

    jobs: tuple[Job, ...]
    skipped: tuple[SkippedControl, ...] = ()
    notes: tuple[str, ...] = ()
    not_downloaded: tuple[str, ...] = ()
