"""From rows to the numbers of a report: what may be compared with what, and what came out. Draws nothing.

The words, from small to large:

- A **measured** cell is its rows as columns.
- An **arm** is a method at a budget on one model: its cells of all seeds, averaged sample by sample.
- A **comparison** holds every arm of one model on one task under one card. Nothing is compared across comparisons.
- A **block** of a comparison holds the arms of one budget whose ledgers agree: whose mean number of visual tokens per
  decoder layer is the same. Only arms of a block are ranked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from tokensieve.errors import StudyError
from tokensieve.study.analysis import significance
from tokensieve.study.analysis.measured import Floats, Integers, Mask, MeasuredCell
from tokensieve.study.statistics import Interval

BUDGET_TOLERANCE = 0.02
"""How far apart, relatively, the mean visual tokens per layer of two arms may be to count as the same budget."""
HEADLINE_ACCURACY = 0.8
"""A type of question counts in the headline if the unpruned model has at least this share right."""

BOUNDS = ("unpruned", "oracle", "anti_oracle", "text_only")
"""Roles that bound every curve and are no rivals: they know the answer's place, or see everything or nothing."""
CONTROL_ROLES = ("random", "uniform", "pool", "downsampled")
"""Roles that a method has to beat."""


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
    cells: tuple[MeasuredCell, ...]

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

    def _mean(self, column: Callable[[MeasuredCell], Floats]) -> Floats:
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
        good = tuple(kind for kind, (right, _) in self.accuracies.items() if right >= HEADLINE_ACCURACY)
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
            found = significance.mean_intervals(scores, self.clusters[mask])
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

    def find_arm(self, method: str, keep: str | None = None) -> Arm | None:
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
            same = [arm for arm in left if arm.tokens <= left[0].tokens * (1 + BUDGET_TOLERANCE)]
            left = left[len(same) :]
            rivals = [arm for arm in same if arm.role == "method" or arm.role in CONTROL_ROLES]
            others = tuple(arm for arm in same if arm not in rivals)
            ranked = tuple(sorted(rivals, key=lambda arm: (-self.score(arm), arm.method)))
            tokens = float(np.mean([arm.tokens for arm in same]))
            found.append(Block(keep, tokens, ranked, others))
        yield from sorted(found, key=lambda block: (-len(block.arms), block.tokens))
