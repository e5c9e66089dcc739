"""The rows of a finished cell as columns."""

from __future__ import annotations

import itertools
import re
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

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, eq=False)
class KeptIds(Sequence[tuple[tuple[int, ...], ...]]):
    """The ids of kept tokens, by row and stage. An id takes four bytes, because all cells of a study are in memory.

    Attributes:
        ids: int32, the ids of all stages of all rows, one after another.
        stages: int64 `[stages]`, the end of each stage in `ids`.
        rows: int64 `[rows]`, the end of each row in `stages`.
    """

    ids: NDArray[np.int32]
    stages: Integers
    rows: Integers

    @classmethod
    def of(cls, kept: Sequence[tuple[tuple[int, ...], ...]]) -> KeptIds:
        """Return the ids of rows, given by row and stage."""
        stages = [stage for row in kept for stage in row]
        return cls(
            np.fromiter(itertools.chain.from_iterable(stages), dtype=np.int32),
            np.cumsum([len(stage) for stage in stages], dtype=np.int64),
            np.cumsum([len(row) for row in kept], dtype=np.int64),
        )

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> tuple[tuple[int, ...], ...]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[tuple[tuple[int, ...], ...]]: ...
    def __getitem__(self, index: int | slice) -> tuple[tuple[int, ...], ...] | Sequence[tuple[tuple[int, ...], ...]]:
        """Return the ids of a row, by stage."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        return tuple(
            tuple(self.ids[_start(self.stages, stage) : self.stages[stage]].tolist())
            for stage in range(_start(self.rows, row), int(self.rows[row]))
        )

    def reorder(self, order: Integers) -> KeptIds:
        """Return the ids with the rows in another order."""
        return KeptIds.of([self[int(number)] for number in order])


@dataclass(frozen=True, eq=False)
class MeasuredCell:
    """The rows of a finished cell as columns.

    Attributes:
        cell: the cell.
        samples: the ids of samples.
        kinds: the types of question.
        images: the names of images.
        answers: the answers of the model.
        correct: float64 `[rows]`, the task's metric.
        grades: float64 `[rows]` by name, all grades of the task.
        tokens: float64 `[rows]`, mean visual tokens per decoder layer.
        visual: int64 `[rows]`, visual tokens of the prompt.
        flops: float64 `[rows]`, counted FLOPs of the language model, and of the vision encoder if the recipe prunes it.
        ms: float64 `[rows]`, measured milliseconds of the prefill.
        selection_ms: float64 `[rows]`, the part of `ms` for selection.
        recall: float64 `[rows]`, recall of needed tokens, NaN if it is not known.
        batches: the sizes of batches.
        kept: the ids of kept tokens, by row and stage.
        shares: by row, stage and operand, the share of kept tokens that the operand alone would have kept, too.
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
        """Return rows as columns.

        Raises:
            StudyError: if there are no rows, or a sample has two rows.
        """
        twice = [name for name, count in Counter(row.sample for row in rows).items() if count > 1]
        if not rows or twice:
            what = f"has sample '{twice[0]}' twice" if twice else "has no rows"
            raise StudyError(f"cell {cell.key} ({cell.model}, {cell.method}) {what}; remove its file and run it again")

        def column(value: Callable[[Row], float | None]) -> Floats:
            return np.array([np.nan if (one := value(row)) is None else one for row in rows], dtype=np.float64)

        return cls(
            cell=cell,
            # Many cells have the same names and answers, so each text is kept in memory once.
            samples=tuple(intern(row.sample) for row in rows),
            kinds=tuple(intern(encodable(row.kind)) for row in rows),
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


def encodable(text: str) -> str:
    """Return text with a replacement character for every lone surrogate: neither files nor figures can hold one."""
    return _SURROGATE.sub("\ufffd", text)


def _start(ends: Integers, index: int) -> int:
    return int(ends[index - 1]) if index else 0
