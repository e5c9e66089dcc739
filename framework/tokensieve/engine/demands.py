"""Budgets that are a mean: what each group of a batch needs, and how many tokens it then keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from tokensieve.algebra.mean_budget import shared
from tokensieve.composers.expression import Expression
from tokensieve.engine.token_layout import Groups
from tokensieve.errors import BudgetError, ScoreError
from tokensieve.evidence import Tokens
from tokensieve.ledger.records import SharedBudget
from tokensieve.recipes.formulas import format_formula
from tokensieve.stage import Stage
from tokensieve.strategy import Appraiser


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
        counts: list[list[int]] = [[] for _ in range(groups.shape[0])]
        demands: list[list[float]] = [[] for _ in counts]
        for sample, count, demand in zip(groups.samples.array.tolist(), self.counts, self.demands, strict=True):
            counts[sample].append(count)
            demands[sample].append(demand)
        return SharedBudget(str(stage.keep), stage.over, name, tuple(map(tuple, counts)), tuple(map(tuple, demands)))


def shared_budgets(stage: Stage, tokens: Tokens, groups: Groups) -> Budgets:
    """Return how many tokens of each group stay at a stage whose budget is a mean. The host waits for the device.

    Groups that tie are served by sample key, then in the order of the batch: where keys differ, the order of the
    samples changes nothing.

    Args:
        stage: the stage, with a demand.
        tokens: the groups, one a row.
        groups: the same, as the host knows them.

    Raises:
        ScoreError: naming the strategy, if a demand is no number that can be shared by.
    """
    if not isinstance(stage.demand, Appraiser):
        raise BudgetError(f"keep {stage.keep} at {stage.at} is a mean, and the stage has no demand to share it by")
    demands = _demands(stage.demand, tokens)
    samples, keys = groups.samples.array.tolist(), tokens.keys.tolist()
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
