"""The front of the points that no other point beats in both cost and gain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tokensieve.errors import StudyError
from tokensieve.study.statistics.design import Design, replicates, scores_of


def front(costs: Sequence[float], gains: Sequence[float]) -> tuple[int, ...]:
    """Return the points that no other beats: none costs no more and gains no less, and is better in one of the two.

    Points that are equal in both are all on the front or all off it, so that the front does not depend on an order.

    Args:
        costs: of each point; lower is better.
        gains: of each point; higher is better.

    Returns:
        Places of the points on the front, by cost, and by place among equals.

    Raises:
        StudyError: if there are more of one than of the other, or some are no finite numbers.
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
    """Return in which part of bootstrap samples each method is on the front of cost and score.

    Args:
        costs: of each method; lower is better.
        scores: `[methods, n]`, what each method has at each sample.
        design: how the samples hang together.

    Raises:
        StudyError: if there are more costs or fewer than methods, or some are no finite numbers.
    """
    values = scores_of(scores)
    if len(costs) != len(values) or not np.isfinite(costs).all():
        raise StudyError(f"{len(values)} methods need as many finite costs; {list(costs)} were given.")
    # Rounded: equal scores may differ in their last bit, by the order in which they were added up.
    drawn = replicates(values, design or Design(), None).round(12)
    price = np.asarray(costs, dtype=np.float64)
    shares = []
    for place in range(len(values)):
        own = drawn[:, place, None]
        beaten = ((price <= price[place]) & (drawn > own)) | ((price < price[place]) & (drawn >= own))
        shares.append(1 - float(beaten.any(axis=1).mean()))
    return tuple(shares)
