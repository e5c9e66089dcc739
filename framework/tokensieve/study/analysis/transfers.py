"""How far the order of methods carries over from model to model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from tokensieve.study.analysis import significance
from tokensieve.study.analysis.comparison import Comparison
from tokensieve.study.statistics import Transfer


@dataclass(frozen=True, eq=False)
class OrderTransfer:
    """How far two models order methods alike, on one task at one budget.

    Attributes:
        first: a model on the task.
        second: another model on it.
        keep: the budget.
        methods: those that both rank.
        found: how far they agree.
    """

    first: Comparison
    second: Comparison
    keep: str
    methods: tuple[str, ...]
    found: Transfer


def order_transfers(comparisons: Sequence[Comparison]) -> tuple[OrderTransfer, ...]:
    """Say how far the order of methods carries over from model to model, by task and budget.

    Methods are ranked where their ledgers agree on either model, by the questions that count in both headlines.
    Controls are no methods.
    """
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for comparison in comparisons:
        groups.setdefault((comparison.task, comparison.card_hash), []).append(comparison)
    return tuple(
        carried
        for group in groups.values()
        for first, second in combinations(group, 2)
        for carried in _transfers(first, second)
    )


def _transfers(first: Comparison, second: Comparison) -> Iterator[OrderTransfer]:
    # A model may have been asked fewer samples, or in another order.
    place = {name: number for number, name in enumerate(second.samples)}
    both = [(number, place[name]) for number, name in enumerate(first.samples) if name in place]
    both = [(one, other) for one, other in both if first.headline[one] and second.headline[other]]
    ours, theirs = ([pair[side] for pair in both] for side in (0, 1))
    for block, twin in product(first.blocks, second.blocks):
        if block.keep != twin.keep:
            continue
        arms, others = ({arm.method: arm for arm in one.arms if arm.role == "method"} for one in (block, twin))
        names = tuple(name for name in first.methods if name in arms and name in others)
        if len(names) < 2:
            continue
        found = significance.order_transfer(
            np.array([arms[name].correct[ours] for name in names]),
            np.array([others[name].correct[theirs] for name in names]),
            first.clusters[ours],
        )
        if found is not None:
            yield OrderTransfer(first, second, block.keep, names, found)
