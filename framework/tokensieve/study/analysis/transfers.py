"""The agreement of two models on the order of methods."""

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
    """The agreement of two models on the order of methods, on one task at one budget.

    Attributes:
        first: the comparison of the first model.
        second: the comparison of the second model on the same task.
        keep: the budget.
        methods: the methods that are ranked on both models.
        transfer: the agreement.
    """

    first: Comparison
    second: Comparison
    keep: str
    methods: tuple[str, ...]
    transfer: Transfer


def order_transfers(comparisons: Sequence[Comparison]) -> tuple[OrderTransfer, ...]:
    """Return how well every two models agree on the order of methods, by task and budget.

    Methods are ranked within the blocks of each model, by the questions that are in both headlines. Controls are left
    out.
    """
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for comparison in comparisons:
        groups.setdefault((comparison.task, comparison.card_hash), []).append(comparison)
    return tuple(
        one
        for group in groups.values()
        for first, second in combinations(group, 2)
        for one in _pair_transfers(first, second)
    )


def _pair_transfers(first: Comparison, second: Comparison) -> Iterator[OrderTransfer]:
    # The models may have been asked different samples, or in another order.
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
