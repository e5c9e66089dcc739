"""Methods against controls: is a method better than the best of them, and does its score point the right way?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokensieve.study.statistics.design import Array, Design, estimates, scores_of
from tokensieve.study.statistics.intervals import (
    Interval,
    bound,
    difference_intervals,
    difference_replicates,
    shared_tail,
)
from tokensieve.study.statistics.paired import holm, sign_flip


@dataclass(frozen=True)
class AgainstBest:
    """The difference of a method to the best control.

    Attributes:
        control: the index of the control with the best score; which control is truly best is not known.
        difference: the difference to the truly best control; the intervals of all methods hold simultaneously.
        p: the p-value of being no better than some control: the largest over controls.
        p_holm: `p` after Holm's correction for the number of methods.
    """

    control: int
    difference: Interval
    p: float
    p_holm: float


def against_best(
    methods: npt.ArrayLike,
    controls: npt.ArrayLike,
    design: Design | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> tuple[AgainstBest, ...]:
    """Compare every method with the best control, which is chosen by the same samples.

    The true difference is the smallest of a method's differences to the controls. It is at least the smallest of their
    lower bounds, and at most the smallest of their upper bounds if all of these hold. The best control is the same
    for all methods, so the lower bounds need to hold for all methods at this one control; the upper bounds need to hold
    for all methods and all controls. A bootstrap of the best control would be narrower, and wrong if controls are
    nearly equal: see docs/decisions/013-statistics.md.

    Args:
        methods: `[methods, n]`, the score of each method on each sample.
        controls: `[controls, n]`, the score of each control.
        design: clusters and kinds of the samples.
        bounds: the smallest and largest possible score of a sample.

    Raises:
        StudyError: if both do not have the same samples, or there are fewer than two clusters.
    """
    design, values, others = design or Design(), scores_of(methods, "methods"), scores_of(controls, "controls")
    count, miss = len(others), (1 - design.level) / 2
    layout = design.layout(values.shape[1])
    drawn, differences, p_values = [], [], []
    for other in others:
        difference, resampled = difference_replicates(values, other, design, bounds)
        drawn.append(resampled)
        differences.append(estimates(difference, layout))
        p_values.append(sign_flip(values, other, design, "greater"))
    low_tail = min(_tail([one], miss) for one in drawn)
    high_tail = _tail([-one for one in drawn], miss)
    lows = np.min([bound(one, low_tail, layout.clusters) for one in drawn], axis=0)
    highs = np.min([-bound(-one, high_tail, layout.clusters) for one in drawn], axis=0)
    best = max(range(count), key=lambda place: (estimates(others, layout)[place], -place))
    p = np.max(p_values, axis=0)
    return tuple(
        AgainstBest(
            best,
            Interval(float(smallest), float(low), float(high), design.level, values.shape[1], layout.clusters),
            float(one),
            adjusted,
        )
        for smallest, low, high, one, adjusted in zip(
            np.min(differences, axis=0), lows, highs, p, holm(p.tolist()), strict=True
        )
    )


@dataclass(frozen=True)
class Alarm:
    """The comparison of a method with its inverse.

    Attributes:
        difference: the score of the method minus that of its inverse.
        raised: whether the inverse may be as good: the interval does not lie above zero.
        certain: whether the inverse is better: the interval lies below zero.
    """

    difference: Interval
    raised: bool
    certain: bool


def inverse_alarm(
    method: npt.ArrayLike,
    inverse: npt.ArrayLike,
    design: Design | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Alarm:
    """Compare a method with its own inverse, which keeps the tokens that the method likes least.

    Args:
        method: `[n]`, the score of the method on each sample.
        inverse: `[n]`, the score of its inverse.
        design: clusters and kinds of the samples.
        bounds: the smallest and largest possible score of a sample.

    Raises:
        StudyError: if both do not have the same samples, or there are fewer than two clusters.
    """
    (difference,) = difference_intervals(np.atleast_2d(np.asarray(method)), inverse, design, bounds=bounds)
    return Alarm(difference, raised=difference.low <= 0, certain=difference.high < 0)


def _tail(sides: list[Array], miss: float) -> float:
    """Return the tail of bounds that hold simultaneously; a single bound keeps its own tail."""
    return miss if sum(side.shape[1] for side in sides) == 1 else shared_tail(sides, miss, miss)
