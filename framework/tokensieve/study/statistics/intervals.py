"""Intervals: of a score, of a paired difference, and of many differences at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokensieve.errors import StudyError
from tokensieve.study.statistics.design import Array, Design, estimates, paired, replicates, scores_of, within


@dataclass(frozen=True)
class Interval:
    """An estimate, and where the truth may lie.

    Attributes:
        estimate: as observed.
        low: the lower end.
        high: the upper end.
        level: how often such an interval holds the truth.
        samples: how many the estimate is of.
        clusters: how many of them are independent of each other: pictures.
    """

    estimate: float
    low: float
    high: float
    level: float
    samples: int
    clusters: int

    @property
    def verdict(self) -> str:
        """What a difference shows: `better`, `worse`, or `unclear` where zero is inside."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "unclear"


def score_intervals(
    scores: npt.ArrayLike, design: Design | None = None, bounds: tuple[float, float] = (0.0, 1.0)
) -> tuple[Interval, ...]:
    """Return an interval of every method's score, each by itself.

    Args:
        scores: `[methods, n]`, what each method has at each sample.
        design: how the samples hang together.
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
    """Return an interval of what every method has more than a base, on the same samples.

    Args:
        scores: `[methods, n]`, what each method has at each sample.
        base: `[n]`, what they are compared with; or `[methods, n]`, a base for each.
        design: how the samples hang together.
        simultaneous: whether `level` is how often *all* intervals hold their truth, not each by itself.
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


def difference_replicates(
    scores: npt.ArrayLike, base: npt.ArrayLike, design: Design, bounds: tuple[float, float]
) -> tuple[Array, Array]:
    """Return the differences of scores to a base, `[methods, n]`, and their bootstrap samples, `[resamples, methods]`.

    The difference of b to a is drawn as that of a to b is, with its sign changed.

    Raises:
        StudyError: if the base is not of the same samples, or scores lie outside of `bounds`.
    """
    within(np.asarray(scores, dtype=np.float64), bounds)
    within(np.asarray(base, dtype=np.float64), bounds)
    differences, span = paired(scores, base), bounds[1] - bounds[0]
    # Rounded: what adds up to nothing may leave a last bit, whose sign is an accident of the order of samples.
    sums = design.layout(differences.shape[1]).by_cell(differences).reshape(-1, len(differences)).round(12)
    signs = np.sign(sums[(sums != 0).argmax(axis=0), np.arange(len(differences))])
    signs[signs == 0] = 1
    return differences, replicates(differences * signs[:, None], design, (-span, span)) * signs


def shared_tail(sides: Sequence[Array], miss: float, most: float) -> float:
    """Return the tail that each of many one-sided bounds may have, so that all hold together.

    A bootstrap sample is inside all bounds if it lies as deep as the bound in every column. The tail is the deepest
    that all but a part `miss` of the bootstrap samples reach.

    Args:
        sides: each `[resamples, m]`; of each column, the lower bound is asked for.
        miss: the part of the bootstrap samples that may be outside of some bound.
        most: the tail of a bound by itself, which is never exceeded.
    """
    from scipy.stats import rankdata

    resamples = len(sides[0])
    # By the largest rank of equal values: a bound is on a value, and all that equal it are inside.
    depth = np.min([rankdata(side, "max", axis=0).min(axis=1) for side in sides], axis=0)
    return min(most, float(np.sort(depth)[int(miss * resamples)]) / (resamples + 1))


def bound(drawn: Array, tail: float, clusters: int) -> Array:
    """Return the lower bound of each column of bootstrap samples `[resamples, m]`: `[m]`.

    The tail is first made smaller, for what a bootstrap of few clusters lacks: it draws from a spread that is too small
    by (c - 1) / c, and knows it only as well as Student's t says (Hesterberg 2015, the expanded percentile interval).

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
