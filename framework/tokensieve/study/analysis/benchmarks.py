"""A model over several benchmarks: the relative average that papers print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tokensieve.study.analysis import significance
from tokensieve.study.analysis.comparison import Arm, Block, Comparison
from tokensieve.study.analysis.findings import Findings
from tokensieve.study.statistics import Interval


@dataclass(frozen=True, eq=False)
class BenchmarkAverage:
    """A method at a budget over the benchmarks of a model.

    Attributes:
        method: the name of the method in the study.
        role: `method`, or the kind of control.
        keep: the budget as written in the study, or none.
        arms: the arm on each benchmark; none where it was not measured.
        blocks: the block of each arm; none where there is no arm, or it has no budget.
        relative: the mean ratio to the unpruned model; none unless all benchmarks were measured and it is known.
    """

    method: str
    role: str
    keep: str | None
    arms: tuple[Arm | None, ...]
    blocks: tuple[Block | None, ...]
    relative: Interval | None

    @property
    def whole(self) -> bool:
        """Return whether the method was measured on every benchmark."""
        return all(arm is not None for arm in self.arms)

    @property
    def tokens(self) -> float:
        """Return the mean over benchmarks of the visual tokens per decoder layer."""
        return float(np.mean([arm.tokens for arm in self.arms if arm is not None]))

    @property
    def flops(self) -> float:
        """Return the mean over benchmarks of the counted FLOPs for a sample."""
        return float(np.mean([arm.flops for arm in self.arms if arm is not None]))


@dataclass(frozen=True, eq=False)
class Benchmarks:
    """The benchmarks of a model that can stand in one table: tasks with one card each.

    Attributes:
        model: the name of the model.
        comparisons: one for each benchmark.
        left_out: the tasks with several cards.
    """

    model: str
    comparisons: tuple[Comparison, ...]
    left_out: tuple[str, ...]

    @classmethod
    def of(cls, all_findings: Sequence[Findings]) -> Benchmarks | None:
        """Return the benchmarks of the findings of one model; none if fewer than two tasks have exactly one card."""
        cards: dict[str, list[Comparison]] = {}
        for findings in all_findings:
            cards.setdefault(findings.comparison.task, []).append(findings.comparison)
        single = tuple(comparisons[0] for comparisons in cards.values() if len(comparisons) == 1)
        left = tuple(task for task, comparisons in cards.items() if len(comparisons) > 1)
        return cls(single[0].model, single, left) if len(single) > 1 else None

    @cached_property
    def averages(self) -> tuple[BenchmarkAverage, ...]:
        """Return an average for every method and control, in the study's order."""
        found: dict[tuple[str, str | None], str] = {}
        for comparison in self.comparisons:
            for arm in comparison.arms:
                if arm.role != "inverted":
                    found.setdefault((arm.method, arm.keep), arm.role)
        arms = {name: tuple(one.find_arm(*name) for one in self.comparisons) for name in found}
        whole = [name for name, row in arms.items() if None not in row]
        ratios = dict(zip(whole, self._relative([arms[name] for name in whole]) or (), strict=False))
        return tuple(
            BenchmarkAverage(
                method,
                role,
                keep,
                arms[method, keep],
                tuple(
                    None if arm is None or arm.keep is None else comparison.block_of(arm)
                    for arm, comparison in zip(arms[method, keep], self.comparisons, strict=True)
                ),
                ratios.get((method, keep)),
            )
            for (method, keep), role in found.items()
        )

    def _relative(self, rows: Sequence[tuple[Arm | None, ...]]) -> list[Interval] | None:
        """Return the mean ratio of each row of arms, one for each benchmark, to the unpruned model."""
        parts = []
        for number, comparison in enumerate(self.comparisons):
            if comparison.unpruned is None or not rows:
                return None
            mask = comparison.headline
            own = [arm for row in rows if (arm := row[number]) is not None]
            scores = np.array([arm.correct[mask] for arm in own])
            # A benchmark's score is that of its whole headline, as papers have it, and not a mean over its types.
            parts.append((scores, comparison.unpruned.correct[mask], comparison.clusters[mask], [""] * int(mask.sum())))
        return significance.relative_intervals(parts)
