"""Which cells may be compared with each other.

The terms, from small to large:

- A **measured cell** has the rows of a cell as columns.
- An **arm** is a method at a budget on one model: its cells of all seeds, averaged for each sample.
- A **comparison** has all arms of one model on one task with one card. Nothing is compared across comparisons.
- A **block** of a comparison has the arms of one budget with the same mean number of visual tokens per decoder layer.
  Only arms of the same block are ranked. An arm whose samples share a budget (`keep: mean ...`) is in a block with arms
  that have exactly as many tokens over all samples, and with no others.
"""

from __future__ import annotations

import math
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
"""The largest relative difference of mean visual tokens per layer between arms of the same block."""
EXACT = 1e-11
"""The largest relative difference of means over the same samples that is rounding, and no token."""
HEADLINE_ACCURACY = 0.8
"""The share of right answers of the unpruned model from which on a type of question counts in the headline."""
CONTROL_ROLES = ("random", "uniform", "pool", "downsampled")
"""Roles that a method has to beat."""
ORACLE_ROLES = ("oracle", "anti_oracle")
BOUND_ROLES = ("unpruned", "text_only", *ORACLE_ROLES, "inverted")
"""Roles that say how good or bad a method could be."""


@dataclass(frozen=True, eq=False)
class Arm:
    """A method at a budget on one model, with its cells of all seeds.

    Attributes:
        method: the name of the method in the study.
        role: `method`, or the kind of control.
        of: the method that a control belongs to, or none.
        keep: the budget as written in the study, or none.
        cells: one for each seed, with rows in the comparison's order.
    """

    method: str
    role: str
    of: str | None
    keep: str | None
    cells: tuple[MeasuredCell, ...]

    @cached_property
    def correct(self) -> Floats:
        """Return the metric of each sample, the mean over seeds, float64 `[samples]`."""
        return self._mean(lambda cell: cell.correct)

    @cached_property
    def per_layer(self) -> Floats:
        """Return the mean visual tokens per decoder layer of each sample, float64 `[samples]`."""
        return self._mean(lambda cell: cell.tokens)

    @cached_property
    def recall(self) -> Floats:
        """Return the recall of needed tokens of each sample, float64 `[samples]`, NaN if it is not known."""
        return self._mean(lambda cell: cell.recall)

    @property
    def tokens(self) -> float:
        """Return the mean over samples of the mean visual tokens per decoder layer."""
        return float(self.per_layer.mean())

    @property
    def flops(self) -> float:
        """Return the mean counted FLOPs for a sample."""
        return float(self._mean(lambda cell: cell.flops).mean())

    @property
    def ms(self) -> float:
        """Return the mean measured milliseconds for a sample."""
        return float(self._mean(lambda cell: cell.ms).mean())

    @property
    def selection_ms(self) -> float:
        """Return the mean milliseconds of selection for a sample."""
        return float(self._mean(lambda cell: cell.selection_ms).mean())

    @property
    def shape(self) -> str | None:
        """Return the hash of where the recipe cuts and to how many tokens, or none."""
        return self.cells[0].cell.shape

    @property
    def is_mean(self) -> bool:
        """Return whether pictures share a budget, so that samples have different numbers of tokens by rule."""
        stages = (self.cells[0].cell.recipe or {}).get("stages", ())
        return any(str(stage.get("keep", "")).startswith("mean ") for stage in stages)

    def costs_as(self, other: Arm) -> bool:
        """Return whether another arm has as many visual tokens per layer, so that both may be compared.

        Where either shares a budget between samples, both must have exactly as many over all samples.
        """
        if self.is_mean or other.is_mean:
            return math.isclose(self.tokens, other.tokens, rel_tol=EXACT)
        return abs(self.tokens - other.tokens) <= BUDGET_TOLERANCE * max(self.tokens, other.tokens)

    @property
    def label(self) -> str:
        """Return the name with the budget."""
        return self.method if self.keep is None else f"{self.method} at {self.keep}"

    def _mean(self, column: Callable[[MeasuredCell], Floats]) -> Floats:
        mean: Floats = np.mean([column(cell) for cell in self.cells], axis=0)
        return mean


RIGHT, AGREEING = "right answers", "agreeing answers"
"""What metrics count."""


@dataclass(frozen=True, eq=False)
class Block:
    """The arms of one budget with the same mean number of visual tokens per layer; they may be ranked.

    Attributes:
        keep: the budget as written in the study.
        tokens: the mean number of visual tokens per decoder layer.
        arms: methods and controls, the best first.
        bounds: arms of this budget that are not ranked: oracle, anti-oracle, inverted scores.
    """

    keep: str
    tokens: float
    arms: tuple[Arm, ...]
    bounds: tuple[Arm, ...]


@dataclass(frozen=True, eq=False)
class Comparison:
    """All arms of one model on one task with one card, on the same samples.

    Attributes:
        model: the model's name in the study.
        model_hash: the hash of its config and weights.
        task: the task's name in the study.
        card: the card of the task.
        card_hash: the hash of the card.
        samples: the ids of samples, in the order of all columns of all arms.
        kinds: the type of question of each sample.
        images: the image of each sample.
        arms: all arms that were measured on these samples.
        excluded: the cells that are not compared, with the reason.
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
        """Return model and task, for headings."""
        return f"{self.model} on {self.task}"

    @property
    def counted(self) -> str:
        """Return what the metric counts, in words: answers of a task that compares are never right, they agree."""
        return AGREEING if str(self.card.get("metric", "")).endswith("agreement") else RIGHT

    @cached_property
    def clusters(self) -> Integers:
        """Return the number of each sample's image, int64 `[samples]`. Answers about one image are not independent."""
        numbers = {name: number for number, name in enumerate(dict.fromkeys(self.images))}
        return np.array([numbers[name] for name in self.images], dtype=np.int64)

    @property
    def unpruned(self) -> Arm | None:
        """Return the arm of the unpruned model; none if it was not measured."""
        return next((arm for arm in self.arms if arm.role == "unpruned"), None)

    @cached_property
    def accuracies(self) -> dict[str, tuple[float, int]]:
        """Return the unpruned model's share of right answers and the number of samples, by type of question."""
        if self.unpruned is None:
            return {}
        kinds = np.array(self.kinds)
        return {
            kind: (float(self.unpruned.correct[kinds == kind].mean()), int((kinds == kind).sum()))
            for kind in dict.fromkeys(self.kinds)
        }

    @cached_property
    def headline_kinds(self) -> tuple[str, ...]:
        """Return the types of question that count in the headline.

        These are the types that the unpruned model is good at, see `HEADLINE_ACCURACY`; all types if there are none.
        """
        good = tuple(kind for kind, (right, _) in self.accuracies.items() if right >= HEADLINE_ACCURACY)
        return good or tuple(dict.fromkeys(self.kinds))

    @property
    def left_out(self) -> dict[str, tuple[float, int]]:
        """Return `accuracies` of the types of question that are not in the headline."""
        return {kind: found for kind, found in self.accuracies.items() if kind not in self.headline_kinds}

    @cached_property
    def headline(self) -> Mask:
        """Return whether each sample counts in the headline, bool `[samples]`."""
        return np.isin(np.array(self.kinds), self.headline_kinds)

    def of_kind(self, kind: str) -> Mask:
        """Return whether each sample is of a type, bool `[samples]`."""
        return np.isin(np.array(self.kinds), [kind])

    def interval(self, arm: Arm, kind: str | None = None) -> Interval:
        """Return the share of right answers of an arm, with its interval.

        Args:
            arm: an arm of this comparison.
            kind: a type of question; by default, the headline.
        """
        return self._intervals(kind)[id(arm)]

    def _intervals(self, kind: str | None) -> dict[int, Interval]:
        """Return the intervals of all arms by id, from one bootstrap."""
        if kind not in self._interval_cache:
            mask = self.headline if kind is None else self.of_kind(kind)
            scores = np.array([arm.correct[mask] for arm in self.arms])
            found = significance.mean_intervals(scores, self.clusters[mask])
            self._interval_cache[kind] = {id(arm): one for arm, one in zip(self.arms, found, strict=True)}
        return self._interval_cache[kind]

    @cached_property
    def _interval_cache(self) -> dict[str | None, dict[int, Interval]]:
        return {}

    def relative(self, arm: Arm) -> Interval | None:
        """Return the mean, over the headline's types of question, of an arm's ratio to the unpruned model.

        Returns:
            The ratio with its interval; none where the unpruned model was not measured, may well have nothing right in
            a type, or all questions are about one picture.
        """
        return self._relative_intervals.get(id(arm))

    @cached_property
    def _relative_intervals(self) -> dict[int, Interval]:
        """Return `relative` of all arms by id, from one bootstrap."""
        if self.unpruned is None:
            return {}
        mask = self.headline
        scores = np.array([arm.correct[mask] for arm in self.arms])
        kinds = [kind for kind, counts in zip(self.kinds, mask, strict=True) if counts]
        found = significance.relative_intervals([(scores, self.unpruned.correct[mask], self.clusters[mask], kinds)])
        return {} if found is None else {id(arm): one for arm, one in zip(self.arms, found, strict=True)}

    def score(self, arm: Arm) -> float:
        """Return the share of right answers of an arm over the headline."""
        return float(arm.correct[self.headline].mean())

    @cached_property
    def keeps(self) -> tuple[str, ...]:
        """Return the budgets, the one with most visual tokens first."""
        seen: dict[str, list[float]] = {}
        for arm in self.arms:
            if arm.keep is not None and arm.role != "inverted":
                seen.setdefault(arm.keep, []).append(arm.tokens)
        # Ordered by the arm with fewest tokens: arms that cut late differ less, and not every budget has such arms.
        return tuple(sorted(seen, key=lambda keep: -min(seen[keep])))

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Return the blocks, by budget from the largest; of one budget, the block with most arms first."""
        return tuple(block for keep in self.keeps for block in self._blocks(keep))

    def block_of(self, arm: Arm) -> Block:
        """Return the block of an arm.

        Raises:
            StudyError: if the arm has no budget, so no block.
        """
        for block in self.blocks:
            if any(arm is one for one in (*block.arms, *block.bounds)):
                return block
        raise StudyError(f"'{arm.label}' of {self.title} is in no block: it has no budget")

    @cached_property
    def unmatched(self) -> tuple[str, ...]:
        """Return what is said of arms that share a budget, and that no other arm of it equals exactly."""
        found = []
        for block in self.blocks:
            means = [arm for arm in block.arms if arm.is_mean]
            others = [arm for arm in self.arms if arm.keep == block.keep and not arm.is_mean]
            if means and others and len(means) == len(block.arms):
                found += [
                    f"{arm.label}: its samples share a budget, and no arm of it that shares none has exactly as many "
                    f"visual tokens per layer, {arm.tokens:.6g} in the mean"
                    for arm in means
                ]
        return tuple(found)

    def find_arm(self, method: str, keep: str | None = None) -> Arm | None:
        """Return the arm with a name and a budget, or none."""
        return next((arm for arm in self.arms if arm.method == method and arm.keep == keep), None)

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Return the names of methods, in the study's order."""
        return tuple(dict.fromkeys(arm.method for arm in self.arms if arm.role == "method"))

    def _blocks(self, keep: str) -> Iterator[Block]:
        remaining = sorted((arm for arm in self.arms if arm.keep == keep), key=lambda arm: arm.tokens)
        found: list[Block] = []
        while remaining:
            # Means first, so that none stands in a block with what is only near. Then a block starts at the smallest
            # arm left, so that no chain of near neighbours joins arms that differ more.
            first = next((arm for arm in remaining if arm.is_mean), remaining[0])
            most = first.tokens * (1 + BUDGET_TOLERANCE)
            same = [arm for arm in remaining if (first.costs_as(arm) if first.is_mean else arm.tokens <= most)]
            remaining = [arm for arm in remaining if not any(arm is one for one in same)]
            ranked_arms = [arm for arm in same if arm.role == "method" or arm.role in CONTROL_ROLES]
            others = tuple(arm for arm in same if arm not in ranked_arms)
            ranked = tuple(sorted(ranked_arms, key=lambda arm: (-self.score(arm), arm.method)))
            tokens = float(np.mean([arm.tokens for arm in same]))
            found.append(Block(keep, tokens, ranked, others))
        yield from sorted(found, key=lambda block: (-len(block.arms), block.tokens))
