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
    """What a method has more than the best control.

    Attributes:
        control: the control that came out best, by its place; which one truly is best is not known.
        difference: to the best control, whichever that is; all methods' intervals hold together.
        p: of the method being no better than some control, by the least favourable one.
        p_holm: the same, adjusted for the number of methods.
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
    """Compare every method with the best control, knowing that the best was picked by the same samples.

    The true difference is the smallest of a method's differences to the controls. It is at least the smallest of their
    lower bounds, and at most the smallest of their upper bounds if all of these hold. The best control is one and the
    same for all methods, so the lower bounds need to hold for all methods at one control, whichever it is; the upper
    bounds need to hold for all methods and all controls. A bootstrap of the largest control would be narrower, and
    wrong where controls are alike: see docs/decisions/013-statistics.md.

    Args:
        methods: `[methods, n]`, what each method has at each sample.
        controls: `[controls, n]`, what each control has.
        design: how the samples hang together.
        bounds: the smallest and largest possible score of a sample.

    Raises:
        StudyError: if both are not of the same samples, or there are fewer than two clusters.
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
    """Whether a method's score turned upside down does no worse.

    Attributes:
        difference: what the method has more than its inverse.
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
        method: `[n]`, what the method has at each sample.
        inverse: `[n]`, what its inverse has.
        design: how the samples hang together.
        bounds: the smallest and largest possible score of a sample.

    Raises:
        StudyError: if both are not of the same samples, or there are fewer than two clusters.
    """
    (difference,) = difference_intervals(np.atleast_2d(np.asarray(method)), inverse, design, bounds=bounds)
    return Alarm(difference, raised=difference.low <= 0, certain=difference.high < 0)


def _tail(sides: list[Array], miss: float) -> float:
    """Return the tail of bounds that hold together; of one bound alone, its own."""
    return miss if sum(side.shape[1] for side in sides) == 1 else shared_tail(sides, miss, miss)
