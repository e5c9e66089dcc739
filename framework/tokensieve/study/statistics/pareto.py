"""The Pareto front of cost and gain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tokensieve.errors import StudyError
from tokensieve.study.statistics.design import Design, replicates, scores_of


def front(costs: Sequence[float], gains: Sequence[float]) -> tuple[int, ...]:
    """Return the Pareto front: the points for which no other is at least as good in cost and gain, and better in one.

    Points that are equal in both are either all on the front or all off it, so the front does not depend on the order.

    Args:
        costs: the cost of each point; lower is better.
        gains: the gain of each point; higher is better.

    Returns:
        The indices of the points on the front, ordered by cost, and by index among equal points.

    Raises:
        StudyError: if the numbers of costs and gains differ, or some are not finite.
    """
    if len(costs) != len(gains):
        raise StudyError(f"every point has a cost and a gain; there are {len(costs)} costs and {len(gains)} gains.")
    if not (np.isfinite(costs).all() and np.isfinite(gains).all()):
        raise StudyError("some costs or gains are no finite numbers; leave out such points.")
    order = sorted(range(len(costs)), key=lambda place: (costs[place], -gains[place], place))
    kept: list[int] = []
    for place in order:
        last = kept[-1] if kept else None
        equal = last is not None and (costs[place], gains[place]) == (costs[last], gains[last])
        if last is None or equal or gains[place] > gains[last]:
            kept.append(place)
    return tuple(kept)


def front_shares(costs: Sequence[float], scores: npt.ArrayLike, design: Design | None = None) -> tuple[float, ...]:
    """Return the share of bootstrap samples in which each method is on the Pareto front of cost and score.

    Args:
        costs: the cost of each method; lower is better.
        scores: `[methods, n]`, the score of each method on each sample.
        design: clusters and kinds of the samples.

    Raises:
        StudyError: if the numbers of costs and methods differ, or some costs are not finite.
    """
    values = scores_of(scores)
    if len(costs) != len(values) or not np.isfinite(costs).all():
        raise StudyError(f"{len(values)} methods need as many finite costs; {list(costs)} were given.")
    # Rounded, because equal scores may differ in their last bit, depending on the order of summation.
    drawn = replicates(values, design or Design(), None).round(12)
    price = np.asarray(costs, dtype=np.float64)
    shares = []
    for place in range(len(values)):
        own = drawn[:, place, None]
        beaten = ((price <= price[place]) & (drawn > own)) | ((price < price[place]) & (drawn >= own))
        shares.append(1 - float(beaten.any(axis=1).mean()))
    return tuple(shares)
