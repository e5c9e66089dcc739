"""From rows to the numbers of a report: what may be compared with what, and what came out. Draws nothing.

The words, from small to large:

- A **measured** cell is its rows as columns.
- An **arm** is a method at a budget on one model: its cells of all seeds, averaged sample by sample.
- A **comparison** holds every arm of one model on one task under one card. Nothing is compared across comparisons.
- A **block** of a comparison holds the arms of one budget whose ledgers agree: whose mean number of visual tokens per
  decoder layer is the same. Only arms of a block are ranked.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from sys import intern
from typing import Any, Protocol, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from tokensieve.errors import StudyError
from tokensieve.study import inference
from tokensieve.study.rows import Cell, Failure, Row
from tokensieve.study.statistics import Interval
from tokensieve.tasks.base import columns

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]

MATCH = 0.02
"""How far apart, relatively, the mean visual tokens per layer of two arms may be to count as the same budget."""
GOOD = 0.8
"""A type of question counts in the headline if the unpruned model has at least this share right."""

BOUNDS = ("unpruned", "oracle", "anti_oracle", "text_only")
"""Roles that bound every curve and are no rivals: they know the answer's place, or see everything or nothing."""
CONTROLS = ("random", "uniform", "pool", "downsampled")
"""Roles that a method has to beat."""


class Results(Protocol):
    """What a report reads: the store is one, and so is anything in memory that has these."""

    def keys(self) -> Iterable[str]:
        """Return the keys of all finished cells."""
        raise NotImplementedError

    def read(self, key: str) -> tuple[Cell, list[Row]]:
        """Return a finished cell."""
        raise NotImplementedError

    def failures(self) -> Iterable[Failure]:
        """Return the cells that did not finish."""
        raise NotImplementedError

    def plan(self) -> Mapping[str, Any]:
        """Return `keys`, all cells in the study's order, and `skipped`, controls that do not apply; or nothing."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Kept(Sequence[tuple[tuple[int, ...], ...]]):
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
    def of(cls, kept: Sequence[tuple[tuple[int, ...], ...]]) -> Kept:
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
            tuple(self.ids[_start(self.stages, stage) : self.stages[stage]].tolist())
            for stage in range(_start(self.rows, row), int(self.rows[row]))
        )

    def taken(self, order: Integers) -> Kept:
        """Return it with its rows in an order."""
        return Kept.of([self[int(number)] for number in order])


@dataclass(frozen=True, eq=False)
class Measured:
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
    kept: Kept
    shares: tuple[tuple[dict[str, float], ...], ...]

    @classmethod
    def of(cls, cell: Cell, rows: Sequence[Row]) -> Measured:
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
            kept=Kept.of([row.kept for row in rows]),
            shares=tuple(row.shares for row in rows),
        )


@dataclass(frozen=True, eq=False)
class Arm:
    """A method at a budget on one model: its cells of all seeds.

    Attributes:
        method: its name in the study.
        role: `method`, or what kind of control.
        of: the method that a control belongs to, or none.
        keep: the budget as the study wrote it, or none.
        cells: one a seed, rows in the comparison's order.
    """

    method: str
    role: str
    of: str | None
    keep: str | None
    cells: tuple[Measured, ...]

    @cached_property
    def correct(self) -> Floats:
        """Return float64 `[samples]`, each the mean over seeds."""
        return self._mean(lambda cell: cell.correct)

    @cached_property
    def per_layer(self) -> Floats:
        """Return float64 `[samples]`, mean visual tokens per decoder layer."""
        return self._mean(lambda cell: cell.tokens)

    @cached_property
    def recall(self) -> Floats:
        """Return float64 `[samples]`, recall of needed tokens, NaN where it is not known."""
        return self._mean(lambda cell: cell.recall)

    @property
    def tokens(self) -> float:
        """Return the mean over samples of the mean visual tokens per decoder layer."""
        return float(self.per_layer.mean())

    @property
    def flops(self) -> float:
        """Return the mean counted FLOPs of a sample."""
        return float(self._mean(lambda cell: cell.flops).mean())

    @property
    def ms(self) -> float:
        """Return the mean measured milliseconds of a sample."""
        return float(self._mean(lambda cell: cell.ms).mean())

    @property
    def selection_ms(self) -> float:
        """Return the mean milliseconds of a sample spent selecting."""
        return float(self._mean(lambda cell: cell.selection_ms).mean())

    @property
    def shape(self) -> str | None:
        """Return where it cuts and to how many tokens, as a hash, or none."""
        return self.cells[0].cell.shape

    @property
    def label(self) -> str:
        """Return its name with its budget."""
        return self.method if self.keep is None else f"{self.method} at {self.keep}"

    def _mean(self, column: Callable[[Measured], Floats]) -> Floats:
        mean: Floats = np.mean([column(cell) for cell in self.cells], axis=0)
        return mean


@dataclass(frozen=True, eq=False)
class Block:
    """The arms of one budget whose ledgers agree: they may be ranked.

    Attributes:
        keep: the budget as the study wrote it.
        tokens: the mean number of visual tokens per decoder layer.
        arms: methods and controls, best first.
        bounds: arms of this budget that are no rivals: oracle, anti-oracle, inverted scores.
    """

    keep: str
    tokens: float
    arms: tuple[Arm, ...]
    bounds: tuple[Arm, ...]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Every arm of one model on one task under one card, on the same samples.

    Attributes:
        model: the model's name in the study.
        model_hash: of its config and weights.
        task: the task's name in the study.
        card: the protocol.
        card_hash: its hash.
        samples: ids, in the order of all columns of all arms.
        kinds: the samples' types of question.
        images: the samples' pictures.
        arms: everything that was measured on these samples.
        excluded: what was not compared, and why.
    """

    model: str
    model_hash: str
    task: str
    card: Mapping[str, Any]
    card_hash: str
    samples: tuple[str, ...]
    kinds: tuple[str, ...]
    images: tuple[str, ...]
    arms: tuple[Arm, ...]
    excluded: tuple[str, ...] = field(default=())

    @property
    def title(self) -> str:
        """Return what tells it from others in a heading."""
        return f"{self.model} on {self.task}"

    @cached_property
    def clusters(self) -> Integers:
        """Return int64 `[samples]`: a number for the picture. Answers about one picture are not independent."""
        numbers = {name: number for number, name in enumerate(dict.fromkeys(self.images))}
        return np.array([numbers[name] for name in self.images], dtype=np.int64)

    @property
    def unpruned(self) -> Arm | None:
        """Return the unpruned model, if it was measured."""
        return next((arm for arm in self.arms if arm.role == "unpruned"), None)

    @cached_property
    def accuracies(self) -> dict[str, tuple[float, int]]:
        """Give, by type of question, the unpruned model's share of right answers and the number of samples."""
        if self.unpruned is None:
            return {}
        kinds = np.array(self.kinds)
        return {
            kind: (float(self.unpruned.correct[kinds == kind].mean()), int((kinds == kind).sum()))
            for kind in dict.fromkeys(self.kinds)
        }

    @cached_property
    def headline_kinds(self) -> tuple[str, ...]:
        """Return the types of question that count in the headline: those that the unpruned model is good at.

        All of them, if it is good at none, or if there are no types.
        """
        good = tuple(kind for kind, (right, _) in self.accuracies.items() if right >= GOOD)
        return good or tuple(dict.fromkeys(self.kinds))

    @property
    def left_out(self) -> dict[str, tuple[float, int]]:
        """Return the types of question that do not count, with the unpruned model's share and their number."""
        return {kind: found for kind, found in self.accuracies.items() if kind not in self.headline_kinds}

    @cached_property
    def headline(self) -> Mask:
        """Return bool `[samples]`: which of them count in the headline."""
        return np.isin(np.array(self.kinds), self.headline_kinds)

    def of_kind(self, kind: str) -> Mask:
        """Return bool `[samples]`: which of them are of a type."""
        return np.isin(np.array(self.kinds), [kind])

    def interval(self, arm: Arm, kind: str | None = None) -> Interval:
        """Return an arm's share of right answers with its interval.

        Args:
            arm: one of this comparison.
            kind: a type of question; the headline if not given.
        """
        return self._intervals(kind)[id(arm)]

    def _intervals(self, kind: str | None) -> dict[int, Interval]:
        """Return the intervals of all arms, drawn together once."""
        if kind not in self._drawn:
            mask = self.headline if kind is None else self.of_kind(kind)
            scores = np.array([arm.correct[mask] for arm in self.arms])
            found = inference.means(scores, self.clusters[mask])
            self._drawn[kind] = {id(arm): one for arm, one in zip(self.arms, found, strict=True)}
        return self._drawn[kind]

    @cached_property
    def _drawn(self) -> dict[str | None, dict[int, Interval]]:
        return {}

    def score(self, arm: Arm) -> float:
        """Return an arm's share of right answers over the headline."""
        return float(arm.correct[self.headline].mean())

    @cached_property
    def keeps(self) -> tuple[str, ...]:
        """Return the budgets, the largest first by what the ledgers say."""
        seen: dict[str, list[float]] = {}
        for arm in self.arms:
            if arm.keep is not None and arm.role != "inverted":
                seen.setdefault(arm.keep, []).append(arm.tokens)
        # By the arms that cut first: later cuts differ less, and how many there are differs from budget to budget.
        return tuple(sorted(seen, key=lambda keep: -min(seen[keep])))

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Return the blocks: by budget from the largest, and within it by ledger, that of most arms first."""
        return tuple(block for keep in self.keeps for block in self._blocks(keep))

    def block_of(self, arm: Arm) -> Block:
        """Return the block that an arm is ranked in.

        Raises:
            StudyError: if it has no budget, so none.
        """
        for block in self.blocks:
            if any(arm is one for one in (*block.arms, *block.bounds)):
                return block
        raise StudyError(f"'{arm.label}' of {self.title} is in no block: it has no budget")

    def find(self, method: str, keep: str | None = None) -> Arm | None:
        """Return the arm of a name at a budget, or none."""
        return next((arm for arm in self.arms if arm.method == method and arm.keep == keep), None)

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Return the names of methods under comparison, in the study's order."""
        return tuple(dict.fromkeys(arm.method for arm in self.arms if arm.role == "method"))

    def _blocks(self, keep: str) -> Iterator[Block]:
        left = sorted((arm for arm in self.arms if arm.keep == keep), key=lambda arm: arm.tokens)
        found: list[Block] = []
        while left:
            # From the smallest on, so that no chain of near neighbours joins what lies far apart.
            same = [arm for arm in left if arm.tokens <= left[0].tokens * (1 + MATCH)]
            left = left[len(same) :]
            rivals = [arm for arm in same if arm.role == "method" or arm.role in CONTROLS]
            others = tuple(arm for arm in same if arm not in rivals)
            ranked = tuple(sorted(rivals, key=lambda arm: (-self.score(arm), arm.method)))
            tokens = float(np.mean([arm.tokens for arm in same]))
            found.append(Block(keep, tokens, ranked, others))
        yield from sorted(found, key=lambda block: (-len(block.arms), block.tokens))


@dataclass(frozen=True, eq=False)
class Rival:
    """What a method is measured against: a control with the same ledger.

    Attributes:
        name: the control's, with how it was mixed where it was.
        control: the control's role.
        correct: float64 `[samples]`.
        tokens: mean visual tokens per decoder layer.
        mixed: whether it is a mixture of two budgets of a control, because none matched.
    """

    name: str
    control: str
    correct: Floats
    tokens: float
    mixed: bool


def collect(results: Results) -> tuple[Comparison, ...]:
    """Read every finished cell once, and put together what may be compared.

    Args:
        results: the store, or the like.

    Returns:
        A comparison for every model (by its hash), task and card, in the order of the cells.

    Raises:
        StudyError: if a cell's rows cannot be used.
    """
    groups: dict[tuple[str, str, str, str], list[Measured]] = {}
    for key in _in_order(results):
        measured = Measured.of(*results.read(key))
        cell = measured.cell
        groups.setdefault((cell.model, cell.model_hash, cell.task, cell.card_hash), []).append(measured)
    return tuple(_compared(cells) for cells in groups.values())


def _in_order(results: Results) -> list[str]:
    """Return the keys of finished cells in the study's order."""
    place = {key: number for number, key in enumerate(results.plan().get("keys", ()))}
    return sorted(results.keys(), key=lambda key: place.get(key, len(place)))


def rivals(comparison: Comparison, arm: Arm) -> list[Rival]:
    """Return the controls with an arm's ledger, the best first.

    Where a control has no cell with as many visual tokens per layer, as for a recipe that cuts inside the decoder,
    it is mixed: a share of the samples at its budget above and the others at its budget below, or unpruned, or
    without any visual token, so that the mean agrees exactly. Every sample counts with both, in that proportion.

    Args:
        comparison: where the arm is from.
        arm: what to match.

    Returns:
        One rival for each control that was measured and whose budgets reach so far.
    """
    found = []
    for role in CONTROLS:
        arms = [one for one in comparison.arms if one.role == role]
        near = [one for one in arms if abs(one.tokens - arm.tokens) <= MATCH * max(one.tokens, arm.tokens)]
        # One that cuts at the same places costs the same in every layer, not only in the mean.
        near = [one for one in near if one.shape is not None and one.shape == arm.shape] or near
        if near:
            best = max(near, key=comparison.score)
            found.append(Rival(best.label, role, best.correct, best.tokens, mixed=False))
        elif arms and (mixed := _mixture(comparison, role, arms, arm.tokens)) is not None:
            found.append(mixed)
    return sorted(found, key=lambda rival: -float(rival.correct[comparison.headline].mean()))


def _mixture(comparison: Comparison, role: str, arms: Sequence[Arm], tokens: float) -> Rival | None:
    ends = [one for one in comparison.arms if one.role in ("unpruned", "text_only")]
    points = sorted([*arms, *ends], key=lambda one: one.tokens)
    for below, above in itertools.pairwise(points):
        if below.tokens <= tokens <= above.tokens and above.tokens > below.tokens:
            part = (tokens - below.tokens) / (above.tokens - below.tokens)
            name = f"{below.label} and {above.label}, mixed to {tokens:.3g} tokens"
            return Rival(name, role, part * above.correct + (1 - part) * below.correct, tokens, mixed=True)
    return None


def _compared(cells: Sequence[Measured]) -> Comparison:
    # Most cells have the same samples. A cell of a shorter run of the same study is no pair to the others.
    sets = Counter(frozenset(cell.samples) for cell in cells)
    [(common, _)] = sets.most_common(1)
    codes = Counter(_code(cell) for cell in cells if frozenset(cell.samples) == common)
    [(code, _)] = codes.most_common(1)
    arms: dict[tuple[str, str, str | None, str | None], dict[int | None, Measured]] = {}
    excluded = []
    samples = next(cell.samples for cell in cells if frozenset(cell.samples) == common)
    # Among cells that say they are the same, the one made by the code that made most of the others comes first.
    for cell in sorted(cells, key=lambda cell: _code(cell) != code):
        what = cell.cell
        seeds = arms.setdefault((what.method, what.role, what.of, what.keep), {})
        if frozenset(cell.samples) != common:
            excluded.append(f"{_named(what)}: asked {len(cell.samples)} samples, others other {len(common)}")
        elif what.seed in seeds:
            excluded.append(f"{_named(what)}: cell {what.key} is there twice, made by other code or another recipe")
        else:
            seeds[what.seed] = _ordered(cell, samples)
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
        arms=tuple(Arm(*what, tuple(of_seed.values())) for what, of_seed in arms.items() if of_seed),
        excluded=tuple(excluded),
    )


def _start(ends: Integers, place: int) -> int:
    return int(ends[place - 1]) if place else 0


def _code(measured: Measured) -> str:
    return measured.cell.versions.get("code", "")


def _named(cell: Cell) -> str:
    seed = "" if cell.seed is None else f", seed {cell.seed}"
    return f"{cell.method} at {cell.keep or 'all tokens'}{seed}"


def _ordered(measured: Measured, samples: tuple[str, ...]) -> Measured:
    """Return a cell with its rows in the order of `samples`."""
    if measured.samples == samples:
        return measured
    place = {name: number for number, name in enumerate(measured.samples)}
    order = np.array([place[name] for name in samples], dtype=np.int64)

    def taken(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(values[int(number)] for number in order)

    return Measured(
        cell=measured.cell,
        samples=samples,
        kinds=taken(measured.kinds),
        images=taken(measured.images),
        answers=taken(measured.answers),
        correct=measured.correct[order],
        grades={name: values[order] for name, values in measured.grades.items()},
        tokens=measured.tokens[order],
        visual=measured.visual[order],
        flops=measured.flops[order],
        ms=measured.ms[order],
        selection_ms=measured.selection_ms[order],
        recall=measured.recall[order],
        batches=measured.batches,
        kept=measured.kept.taken(order),
        shares=taken(measured.shares),
    )
