"""Budgets that are a mean: what each group of a batch needs, and how many tokens it then keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from tokensieve.algebra.mean_budget import shared
from tokensieve.composers.expression import Expression
from tokensieve.engine.token_layout import Groups
from tokensieve.errors import BudgetError, RefusedError, ScoreError
from tokensieve.evidence import Tokens
from tokensieve.ledger.records import SharedBudget
from tokensieve.recipes.formulas import format_formula
from tokensieve.stage import Stage
from tokensieve.strategy import Appraiser

_T = TypeVar("_T")


@dataclass(frozen=True)
class Budgets:
    """How many tokens of each group stay.

    Attributes:
        counts: one for each group.
        demands: what each group needs, where they share a mean; else none.
    """

    counts: list[int]
    demands: list[float] | None = None

    def record(self, stage: Stage, groups: Groups, names: Mapping[Expression, str]) -> SharedBudget | None:
        """Return how groups shared a mean, for the ledger; none where each had a budget of its own.

        Args:
            stage: the stage.
            groups: its groups.
            names: what the recipe calls its strategies.
        """
        if self.demands is None or stage.demand is None:
            return None
        name = format_formula(stage.demand, names)
        sizes, counts = _by_sample(groups, groups.sizes), _by_sample(groups, self.counts)
        return SharedBudget(str(stage.keep), stage.over, name, sizes, counts, _by_sample(groups, self.demands))


def _by_sample(groups: Groups, values: Sequence[_T]) -> tuple[tuple[_T, ...], ...]:
    """Return values of groups by sample, in the order of its groups."""
    found: list[list[_T]] = [[] for _ in range(groups.shape[0])]
    for sample, value in zip(groups.samples.array.tolist(), values, strict=True):
        found[sample].append(value)
    return tuple(map(tuple, found))


def shared_budgets(
    stage: Stage, tokens: Tokens, groups: Groups, given: Mapping[int, Sequence[int]] | None = None
) -> Budgets:
    """Return how many tokens of each group stay at a stage whose budget is a mean. The host waits for the device.

    Groups that tie are served by sample key, then in the order of the batch: where keys differ, the order of the
    samples changes nothing.

    Args:
        stage: the stage, with a demand.
        tokens: the groups, one a row.
        groups: the same, as the host knows them.
        given: by sample key how many tokens of each group stay, where that was found out over a task.

    Raises:
        RefusedError: if the budgets of a sample are not given, or are not those of its groups.
        ScoreError: naming the strategy, if a demand is no number that can be shared by.
    """
    if not isinstance(stage.demand, Appraiser):
        raise BudgetError(f"keep {stage.keep} at {stage.at} is a mean, and the stage has no demand to share it by")
    demands = _demands(stage.demand, tokens)
    samples, keys = groups.samples.array.tolist(), tokens.keys.tolist()
    if stage.over == "task":
        return Budgets(_given(stage, groups, dict(zip(samples, keys, strict=True)), given or {}), demands)
    turns = sorted(range(len(samples)), key=lambda row: (keys[row], samples[row], row))
    together: dict[int, list[int]] = {}
    for row in turns:
        together.setdefault(samples[row] if stage.over == "sample" else 0, []).append(row)
    counts = [0] * len(samples)
    for rows in together.values():
        found = shared(stage.keep, [groups.sizes[row] for row in rows], [demands[row] for row in rows])
        for row, one in zip(rows, found, strict=True):
            counts[row] = one
    return Budgets(counts, demands)


def _given(stage: Stage, groups: Groups, keys: Mapping[int, int], given: Mapping[int, Sequence[int]]) -> list[int]:
    """Return the budgets of groups that were found out before; groups of a sample stand in a row."""
    counts: list[int] = []
    by_sample = _by_sample(groups, groups.sizes)
    for sample, key in keys.items():
        sizes, own = by_sample[sample], given.get(key)
        if own is None or len(own) != len(sizes) or not all(1 <= k <= n for k, n in zip(own, sizes, strict=True)):
            raise RefusedError(
                f"keep {stage.keep} at {stage.at} is met over a task: budgets= has {own} for the sample key {key}, "
                f"whose groups have {list(sizes)} tokens"
            )
        counts += own
    return counts


def _demands(appraiser: Appraiser, tokens: Tokens) -> list[float]:
    """Return what each group needs."""
    with appraiser.lent(tokens.only(appraiser.needs)) as lent:
        found: object = appraiser.demand(lent)
    rows = tokens.valid.shape[0]
    if not isinstance(found, Tensor) or found.shape != (rows,):
        what = f"{list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ScoreError(f"'{appraiser.name}' returned {what}; demand returns one number for each row, [{rows}]")
    demands: list[float] = found.double().tolist()
    if any(not 0 <= demand < float("inf") for demand in demands):
        raise ScoreError(
            f"'{appraiser.name}' returned the demands {demands}; a demand is a finite number and not negative"
        )
    return demands
