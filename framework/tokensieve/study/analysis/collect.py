"""From the cells of a store to comparisons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from tokensieve.study.analysis.comparison import Arm, Comparison
from tokensieve.study.analysis.measured import MeasuredCell
from tokensieve.study.rows import Cell, Failure, Row


class Results(Protocol):
    """What a report reads: a store, or any object with these methods."""

    def keys(self) -> Iterable[str]:
        """Return the keys of all finished cells."""
        raise NotImplementedError

    def read(self, key: str) -> tuple[Cell, list[Row]]:
        """Return a finished cell and its rows."""
        raise NotImplementedError

    def failures(self) -> Iterable[Failure]:
        """Return the cells that did not finish."""
        raise NotImplementedError

    def damaged(self) -> Mapping[str, str]:
        """Return what is wrong with the files of cells that cannot be used, by key."""
        raise NotImplementedError

    def plan(self) -> Mapping[str, Any]:
        """Return `keys` of all cells in the study's order, `cells` that name them, and `skipped` controls.

        It is empty without a plan.
        """
        raise NotImplementedError


def collect(results: Results) -> tuple[Comparison, ...]:
    """Read all finished cells, and return them as comparisons.

    Args:
        results: the store, or an object like it.

    Returns:
        A comparison for every model (by its hash), task and card, in the order of the cells.

    Raises:
        StudyError: if a cell's rows cannot be used.
    """
    groups: dict[tuple[str, str, str, str], list[MeasuredCell]] = {}
    for key in _ordered_keys(results):
        measured = MeasuredCell.of(*results.read(key))
        cell = measured.cell
        groups.setdefault((cell.model, cell.model_hash, cell.task, cell.card_hash), []).append(measured)
    return tuple(_make_comparison(cells) for cells in groups.values())


def _ordered_keys(results: Results) -> list[str]:
    """Return the keys of finished cells in the study's order."""
    place = {key: number for number, key in enumerate(results.plan().get("keys", ()))}
    return sorted(results.keys(), key=lambda key: place.get(key, len(place)))


def _make_comparison(cells: Sequence[MeasuredCell]) -> Comparison:
    # Cells are paired by sample, so cells with other samples than most, as of a shorter run, are excluded.
    sets = Counter(frozenset(cell.samples) for cell in cells)
    [(common, _)] = sets.most_common(1)
    codes = Counter(_code(cell) for cell in cells if frozenset(cell.samples) == common)
    [(code, _)] = codes.most_common(1)
    arms: dict[tuple[str, str, str | None, str | None], dict[int | None, MeasuredCell]] = {}
    excluded = []
    samples = next(cell.samples for cell in cells if frozenset(cell.samples) == common)
    # Of several cells for the same arm and seed, the one is used that was made by the same code as most cells.
    for cell in sorted(cells, key=lambda cell: _code(cell) != code):
        own = cell.cell
        seeds = arms.setdefault((own.method, own.role, own.of, own.keep), {})
        if frozenset(cell.samples) != common:
            excluded.append(f"{_cell_name(own)}: asked {len(cell.samples)} samples, others other {len(common)}")
        elif own.seed in seeds:
            excluded.append(f"{_cell_name(own)}: cell {own.key} is there twice, made by other code or another recipe")
        else:
            seeds[own.seed] = _with_sample_order(cell, samples)
    first = next(cell for cell in cells if cell.samples == samples)
    return Comparison(
        model=first.cell.model,
        model_hash=first.cell.model_hash,
        task=first.cell.task,
        card=first.cell.card,
        card_hash=first.cell.card_hash,
        samples=samples,
        kinds=first.kinds,
        images=first.images,
        arms=tuple(Arm(*name, tuple(by_seed.values())) for name, by_seed in arms.items() if by_seed),
        excluded=tuple(excluded),
    )


def _code(measured: MeasuredCell) -> str:
    return measured.cell.versions.get("code", "")


def _cell_name(cell: Cell) -> str:
    seed = "" if cell.seed is None else f", seed {cell.seed}"
    return f"{cell.method} at {cell.keep or 'all tokens'}{seed}"


def _with_sample_order(measured: MeasuredCell, samples: tuple[str, ...]) -> MeasuredCell:
    """Return a cell with its rows in the order of `samples`."""
    if measured.samples == samples:
        return measured
    place = {name: number for number, name in enumerate(measured.samples)}
    order = np.array([place[name] for name in samples], dtype=np.int64)

    def reorder(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(values[int(number)] for number in order)

    return MeasuredCell(
        cell=measured.cell,
        samples=samples,
        kinds=reorder(measured.kinds),
        images=reorder(measured.images),
        answers=reorder(measured.answers),
        correct=measured.correct[order],
        grades={name: values[order] for name, values in measured.grades.items()},
        tokens=measured.tokens[order],
        visual=measured.visual[order],
        flops=measured.flops[order],
        ms=measured.ms[order],
        selection_ms=measured.selection_ms[order],
        recall=measured.recall[order],
        batches=measured.batches,
        kept=measured.kept.reorder(order),
        shares=reorder(measured.shares),
    )
