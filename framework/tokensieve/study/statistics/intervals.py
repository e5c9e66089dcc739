"""Intervals: of a score, of a paired difference, and of many differences at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tokensieve.errors import StudyError
from tokensieve.study.statistics.design import (
    Array,
    Design,
    estimates,
    kind_replicates,
    paired,
    replicates,
    scores_of,
    within,
)


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes:
        estimate: the observed value.
        low: the lower end.
        high: the upper end.
        level: the confidence level.
        samples: the number of samples.
        clusters: the number of clusters, such as images, which are independent of each other.
    """

    estimate: float
    low: float
    high: float
    level: float
    samples: int
    clusters: int

    @property
    def verdict(self) -> str:
        """Return the verdict on a difference: `better`, `worse`, or `unclear` if zero is inside."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "unclear"


def score_intervals(
    scores: npt.ArrayLike, design: Design | None = None, bounds: tuple[float, float] = (0.0, 1.0)
) -> tuple[Interval, ...]:
    """Return an interval for the score of every method, each at the given level.

    Args:
        scores: `[methods, n]`, the score of each method on each sample.
        design: clusters and kinds of the samples.
        bounds: the smallest and largest possible score of a sample.

    Raises:
        StudyError: if the scores have another shape or range, or there are fewer than two clusters.
    """
    design, values = design or Design(), scores_of(scores)
    within(values, bounds)
    drawn = replicates(values, design, bounds)
    return _intervals(values, drawn, (1 - design.level) / 2, design)


def difference_intervals(
    scores: npt.ArrayLike,
    base: npt.ArrayLike,
    design: Design | None = None,
    *,
    simultaneous: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> tuple[Interval, ...]:
    """Return an interval for the difference of every method to a base on the same samples.

    Args:
        scores: `[methods, n]`, the score of each method on each sample.
        base: `[n]`, the scores of the base; or `[methods, n]`, a base for each method.
        design: clusters and kinds of the samples.
        simultaneous: whether the level holds for all intervals together, and not only for each one.
        bounds: the smallest and largest possible score of a sample.

    Raises:
        StudyError: if the scores have another shape or range, or there are fewer than two clusters.
    """
    design = design or Design()
    differences, drawn = difference_replicates(scores, base, design, bounds)
    tail = (1 - design.level) / 2
    if simultaneous:
        tail = shared_tail([drawn, -drawn], 1 - design.level, tail)
    return _intervals(differences, drawn, tail, design)


def ratio_intervals(parts: Sequence[tuple[npt.ArrayLike, npt.ArrayLike, Design]]) -> tuple[Interval, ...] | None:
    """Return an interval for the ratio of every method's score to a base's, the mean over parts and their kinds.

    This is the relative average of papers: the mean, over benchmarks, of a method's accuracy divided by that of the
    unpruned model. Bootstrap samples of a part have the same clusters for methods and base; parts, such as benchmarks,
    are drawn independently of each other. As in `difference_intervals`, each part has two more clusters, one in which
    only the method is right, and one in which only the base is.

    Args:
        parts: for each, the scores `[methods, n]`, the base `[n]`, both in [0, 1], and the design.

    Returns:
        An interval for each method; none where the base's score of a kind is zero, or may well be.

    Raises:
        StudyError: if scores have another shape or range, there are no parts or fewer than two clusters in one.
    """
    if not parts:
        raise StudyError("a mean of ratios takes at least one part; none was given.")
    level, resamples = parts[0][2].level, parts[0][2].resamples
    estimated: list[Array] = []
    drawn_parts: list[Array] = []
    for number, (scores, base, design) in enumerate(parts):
        # Parts with as many clusters must not draw the same numbers.
        own = replace(design, seed=design.seed + number, level=level, resamples=resamples)
        found = _ratio_replicates(scores_of(scores), scores_of(np.atleast_2d(np.asarray(base, np.float64))), own)
        if found is None:
            return None
        estimated.append(found[0])
        drawn_parts.append(found[1])
    means, drawn = np.mean(estimated, axis=0), np.mean(drawn_parts, axis=0)
    layouts = [design.layout(np.asarray(scores).shape[1]) for scores, _, design in parts]
    # The part with fewest clusters decides how much wider an interval has to be than its bootstrap.
    fewest, tail = min(layout.clusters for layout in layouts), (1 - level) / 2
    lows, highs = bound(drawn, tail, fewest), -bound(-drawn, tail, fewest)
    counted = sum(len(layout.cluster) for layout in layouts), sum(layout.clusters for layout in layouts)
    return tuple(
        Interval(float(mean), float(low), float(high), level, *counted)
        for mean, low, high in zip(means, lows, highs, strict=True)
    )


def _ratio_replicates(scores: Array, base: Array, design: Design) -> tuple[Array, Array] | None:
    """Return the ratios `[methods]` and their bootstrap samples `[resamples, methods]`; none where a base is zero."""
    paired(scores, base)
    within(scores, (0, 1))
    within(base, (0, 1))
    values = np.concatenate([base, scores])
    added = np.ones((2, len(values)))
    added[0, 0] = added[1, 1:] = 0
    layout = design.layout(values.shape[1])
    ones = layout.by_cell(np.ones_like(base)).sum(axis=0)
    whole = layout.by_cell(values).sum(axis=0) / ones
    drawn = np.empty((design.resamples, len(scores)))
    if not (whole[:, 0] > 0).all():
        return None
    for place, means in kind_replicates(values, design, added):
        if not (means[..., 0] > 0).all():
            return None
        drawn[place] = (means[..., 1:] / means[..., :1]).mean(axis=1)
    return (whole[:, 1:] / whole[:, :1]).mean(axis=0), drawn


def difference_replicates(
    scores: npt.ArrayLike, base: npt.ArrayLike, design: Design, bounds: tuple[float, float]
) -> tuple[Array, Array]:
    """Return the differences of scores to a base, `[methods, n]`, and their bootstrap samples, `[resamples, methods]`.

    The bootstrap of the difference of b to a is that of a to b, with its sign changed.

    Raises:
        StudyError: if the base does not have the same samples, or scores lie outside of `bounds`.
    """
    within(np.asarray(scores, dtype=np.float64), bounds)
    within(np.asarray(base, dtype=np.float64), bounds)
    differences, span = paired(scores, base), bounds[1] - bounds[0]
    # Rounded, because sums that are zero may differ in their last bit, whose sign depends on the order of samples.
    sums = design.layout(differences.shape[1]).by_cell(differences).reshape(-1, len(differences)).round(12)
    signs = np.sign(sums[(sums != 0).argmax(axis=0), np.arange(len(differences))])
    signs[signs == 0] = 1
    return differences, replicates(differences * signs[:, None], design, (-span, span)) * signs


def shared_tail(sides: Sequence[Array], miss: float, most: float) -> float:
    """Return the tail of each of many one-sided bounds with which all hold simultaneously.

    A bootstrap sample is inside all bounds if its rank in every column is at least that of the bound. The tail is the
    largest one for which only a share `miss` of the bootstrap samples is outside of some bound.

    Args:
        sides: each `[resamples, m]`; every column has a lower bound.
        miss: the share of bootstrap samples that may be outside of some bound.
        most: the tail of a single bound, which is never exceeded.
    """
    from scipy.stats import rankdata

    resamples = len(sides[0])
    # Equal values have their largest rank, because all values equal to a bound are inside.
    depth = np.min([rankdata(side, "max", axis=0).min(axis=1) for side in sides], axis=0)
    return min(most, float(np.sort(depth)[int(miss * resamples)]) / (resamples + 1))


def bound(drawn: Array, tail: float, clusters: int) -> Array:
    """Return the lower bound of each column of bootstrap samples `[resamples, m]`: `[m]`.

    The tail is first made smaller, because a bootstrap of c clusters is too narrow: its variance is too small by the
    factor (c - 1) / c, and Student's t replaces the normal distribution (Hesterberg 2015, the expanded percentile
    interval).

    Raises:
        StudyError: if there are fewer than two clusters.
    """
    from scipy.stats import norm, t

    if clusters < 2:
        raise StudyError(
            "an interval takes at least two clusters (pictures), and all samples belong to one; add pictures, "
            "or leave `clusters` out if the samples are independent of each other."
        )
    wider = norm.cdf(np.sqrt(clusters / (clusters - 1)) * t.ppf(tail, clusters - 1))
    lower: Array = np.quantile(drawn, wider, axis=0, method="weibull")
    return lower


def _intervals(values: Array, drawn: Array, tail: float, design: Design) -> tuple[Interval, ...]:
    layout = design.layout(values.shape[1])
    lows, highs = bound(drawn, tail, layout.clusters), -bound(-drawn, tail, layout.clusters)
    return tuple(
        Interval(float(estimate), float(low), float(high), design.level, values.shape[1], layout.clusters)
        for estimate, low, high in zip(estimates(values, layout), lows, highs, strict=True)
    )
