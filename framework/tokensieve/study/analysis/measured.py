"""A finished cell's rows as columns."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from sys import intern
from typing import TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from tokensieve.errors import StudyError
from tokensieve.study.rows import Cell, Row
from tokensieve.tasks.base import columns

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class KeptIds(Sequence[tuple[tuple[int, ...], ...]]):
    """By row, by stage, the ids that stayed. All of a study's are in memory, so an id takes four bytes.

    Attributes:
        ids: int32, those of all rows' stages, one after another.
        stages: int64 `[stages]`, where in `ids` each stage of any row ends.
        rows: int64 `[rows]`, where in `stages` each row ends.
    """

    ids: NDArray[np.int32]
    stages: Integers
    rows: Integers

    @classmethod
    def of(cls, kept: Sequence[tuple[tuple[int, ...], ...]]) -> KeptIds:
        """Take what each row kept."""
        stages = [stage for row in kept for stage in row]
        return cls(
            np.fromiter(itertools.chain.from_iterable(stages), dtype=np.int32),
            np.cumsum([len(stage) for stage in stages], dtype=np.int64),
            np.cumsum([len(row) for row in kept], dtype=np.int64),
        )

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> tuple[tuple[int, ...], ...]: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[tuple[tuple[int, ...], ...]]: ...
    def __getitem__(self, place: int | slice) -> tuple[tuple[int, ...], ...] | Sequence[tuple[tuple[int, ...], ...]]:
        """Return what a row kept, by stage."""
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        row = range(len(self))[place]
        return tuple(
            tuple(self.ids[_start_of(self.stages, stage) : self.stages[stage]].tolist())
            for stage in range(_start_of(self.rows, row), int(self.rows[row]))
        )

    def taken(self, order: Integers) -> KeptIds:
        """Return it with its rows in an order."""
        return KeptIds.of([self[int(number)] for number in order])


@dataclass(frozen=True, eq=False)
class MeasuredCell:
    """A finished cell's rows as columns, in the rows' order.

    Attributes:
        cell: which.
        samples: ids.
        kinds: types of question.
        images: pictures' names.
        answers: what was answered.
        correct: float64 `[rows]`.
        grades: by name, float64 `[rows]`, what the task gave; the metric is `correct`.
        tokens: float64 `[rows]`, mean visual tokens per decoder layer.
        visual: int64 `[rows]`, visual tokens of the prompt.
        flops: float64 `[rows]`, counted: language model and, where the recipe prunes it, tower.
        ms: float64 `[rows]`, measured.
        selection_ms: float64 `[rows]`, the part of it spent selecting.
        recall: float64 `[rows]`, NaN where it is not known.
        batches: the sizes of batches that were measured.
        kept: by row, by stage, the ids that stayed.
        shares: by row, by stage, by operand.
    """

    cell: Cell
    samples: tuple[str, ...]
    kinds: tuple[str, ...]
    images: tuple[str, ...]
    answers: tuple[str, ...]
    correct: Floats
    grades: Mapping[str, Floats]
    tokens: Floats
    visual: Integers
    flops: Floats
    ms: Floats
    selection_ms: Floats
    recall: Floats
    batches: tuple[int, ...]
    kept: KeptIds
    shares: tuple[tuple[dict[str, float], ...], ...]

    @classmethod
    def of(cls, cell: Cell, rows: Sequence[Row]) -> MeasuredCell:
        """Turn rows into columns.

        Raises:
            StudyError: if there is no row, or a sample has two.
        """
        twice = [name for name, count in Counter(row.sample for row in rows).items() if count > 1]
        if not rows or twice:
            what = f"has sample '{twice[0]}' twice" if twice else "has no rows"
            raise StudyError(f"cell {cell.key} ({cell.model}, {cell.method}) {what}; remove its file and run it again")

        def column(value: Callable[[Row], float | None]) -> Floats:
            return np.array([np.nan if (one := value(row)) is None else one for row in rows], dtype=np.float64)

        return cls(
            cell=cell,
            # Cells repeat each other's names and answers: each is in memory once.
            samples=tuple(intern(row.sample) for row in rows),
            kinds=tuple(intern(row.kind) for row in rows),
            images=tuple(intern(row.image) for row in rows),
            answers=tuple(intern(row.answer) for row in rows),
            correct=column(lambda row: row.correct),
            grades=columns([row.grades for row in rows]),
            tokens=column(lambda row: sum(row.per_layer) / max(1, len(row.per_layer))),
            visual=np.array([row.visual for row in rows], dtype=np.int64),
            flops=column(lambda row: row.flops + (row.tower_flops or 0)),
            ms=column(lambda row: row.ms),
            selection_ms=column(lambda row: row.selection_ms),
            recall=column(lambda row: row.recall),
            batches=tuple(sorted({row.batch for row in rows})),
            kept=KeptIds.of([row.kept for row in rows]),
            shares=tuple(row.shares for row in rows),
        )


def _start_of(ends: Integers, place: int) -> int:
    return int(ends[place - 1]) if place else 0
