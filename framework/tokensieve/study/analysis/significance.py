"""The statistics of a report: many comparisons at once, with answers about the same image resampled together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tokensieve.study import statistics
from tokensieve.study.statistics import Design, Friedman, Interval, Rank, Record, Transfer

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
Verdict = Literal["better", "worse", "open"]

LEVEL = 0.95
RESAMPLES = 4_000
"""Bootstrap samples: enough for intervals printed to a tenth of a point, and for p-values corrected for 100 tests."""
RESAMPLES_OF_PAIRS = 1_000
"""Bootstrap samples for intervals of all pairs of methods."""


@dataclass(frozen=True)
class PairedDifference:
    """A paired difference.

    Attributes:
        value: the mean difference of shares of right answers.
        low: the lower end of its 95 % interval.
        high: the upper end.
        p: the p-value of no difference.
        holm: `p` after Holm's correction over all differences for the same question.
        wins: the number of samples where the first is better.
        ties: the number of samples where both are equal.
        losses: the number of samples where the second is better.
        verdict: whether the first is better or worse after the correction, or this is open.
        mcnemar: the p-value of McNemar's exact test, which assumes independent samples; none if an answer is neither
            right nor wrong, or all samples are about one image.
        mcnemar_holm: `mcnemar` after Holm's correction over all such differences for the same question.
    """

    value: float
    low: float
    high: float
    p: float
    holm: float
    wins: int
    ties: int
    losses: int
    verdict: Verdict
    mcnemar: float | None = None
    mcnemar_holm: float | None = None

    @property
    def samples(self) -> int:
        """Return the number of samples."""
        return self.wins + self.ties + self.losses


def half_width(interval: Interval) -> float:
    """Return the larger distance of an interval's ends from its estimate, as in `87.3 ± 2.1`."""
    return max(interval.estimate - interval.low, interval.high - interval.estimate)


def mean_intervals(scores: Floats, clusters: Integers) -> list[Interval]:
    """Return the mean of each row with its interval.

    Args:
        scores: `[rows, samples]`, in [0, 1].
        clusters: `[samples]`, equal for samples of the same image. With a single image, an interval is all of [0, 1].
    """
    if not len(scores):
        return []
    if len(set(clusters.tolist())) < 2:
        return [Interval(float(row.mean()), 0.0, 1.0, LEVEL, len(row), 1) for row in scores]
    return list(statistics.score_intervals(scores, _design(clusters)))


def relative_intervals(
    parts: Sequence[tuple[Floats, Floats, Integers, Sequence[str]]],
) -> list[Interval] | None:
    """Return the mean ratio of each row to a base over types of question and benchmarks, with its interval.

    Args:
        parts: for each benchmark, the scores `[rows, samples]`, those of the base `[samples]`, the clusters `[samples]`
            and the types of question; see `statistics.ratio_intervals`.

    Returns:
        The ratios; none with a single image, or a base that may well have nothing right.
    """
    if not parts or any(len(set(clusters.tolist())) < 2 for _, _, clusters, _ in parts):
        return None
    found = statistics.ratio_intervals(
        [(scores, base, replace(_design(clusters), kinds=tuple(kinds))) for scores, base, clusters, kinds in parts]
    )
    return None if found is None else list(found)


def paired_differences(first: Floats, second: Floats, clusters: Integers) -> list[PairedDifference]:
    """Return the paired difference of each row of two arrays, after Holm's correction over all rows.

    Args:
        first: `[rows, samples]`, in [0, 1].
        second: `[rows, samples]`, likewise.
        clusters: `[samples]`.
    """
    if not len(first):
        return []
    counts = [_win_tie_loss_counts(one - other) for one, other in zip(first, second, strict=True)]
    if len(set(clusters.tolist())) < 2:
        gaps = (first - second).mean(axis=1)
        return [
            PairedDifference(float(gap), -1.0, 1.0, 1.0, 1.0, *count, "open")
            for gap, count in zip(gaps, counts, strict=True)
        ]
    design = _design(clusters)
    intervals = statistics.difference_intervals(first, second, design)
    ps = statistics.sign_flip(first, second, design)
    plain = [
        PairedDifference(one.estimate, one.low, one.high, p, p, *count, "open", _mcnemar(*answers))
        for one, p, count, *answers in zip(intervals, ps, counts, first, second, strict=True)
    ]
    return holm_corrected(plain)


def holm_corrected(found: Sequence[PairedDifference]) -> list[PairedDifference]:
    """Return differences with Holm's correction over all of them, and with verdicts."""
    return [_with_verdict(one, one.value, one.value) for one in _with_holm(found)]


def best_control_differences(methods: Floats, controls: Floats, clusters: Integers) -> list[PairedDifference]:
    """Return the difference of each method to the best control, which is chosen by the same samples.

    A method is better than the best control if it is better than every control, and worse if it is worse than some. The
    p-value is twice the smaller of the two one-sided ones, where that of worse is corrected for the number of controls.
    McNemar's test is against the first control only. Nothing is corrected for the number of methods.

    Args:
        methods: `[methods, samples]`.
        controls: `[controls, samples]`, the best first.
        clusters: `[samples]`.
    """
    counts = [_win_tie_loss_counts(row - controls[0]) for row in methods]
    if len(set(clusters.tolist())) < 2:
        return paired_differences(methods, np.broadcast_to(controls[0], methods.shape), clusters)
    design = _design(clusters)
    found = statistics.against_best(methods, controls, design)
    # One-sided: the method is no worse than any control.
    unbeaten = [
        min(1.0, len(controls) * min(statistics.sign_flip(controls, row, design, "greater"))) for row in methods
    ]
    return [
        PairedDifference(
            one.difference.estimate,
            one.difference.low,
            one.difference.high,
            p := min(1.0, 2 * min(one.p, worse)),
            p,
            *count,
            "open",
            _mcnemar(row, controls[0]),
        )
        for one, worse, count, row in zip(found, unbeaten, counts, methods, strict=True)
    ]


def holm_corrected_best(found: Sequence[PairedDifference]) -> list[PairedDifference]:
    """Return differences to best controls after Holm's correction; verdicts depend on the p-value and the interval."""
    return [_with_verdict(one, one.low, one.high) for one in _with_holm(found)]


def _with_holm(found: Sequence[PairedDifference]) -> list[PairedDifference]:
    """Return differences with p-values after Holm's correction over all of them."""
    exact = iter(statistics.holm([one.mcnemar for one in found if one.mcnemar is not None]))
    return [
        replace(one, holm=p, mcnemar_holm=None if one.mcnemar is None else next(exact))
        for one, p in zip(found, statistics.holm([one.p for one in found]), strict=True)
    ]


def _mcnemar(first: Floats, second: Floats) -> float | None:
    """Return McNemar's exact p-value; none if an answer is neither right nor wrong."""
    binary = np.isin([first, second], (0, 1)).all()
    return statistics.mcnemar(first, second).exact if binary else None


def _with_verdict(one: PairedDifference, low: float, high: float) -> PairedDifference:
    """Return a significant difference as better if `low` is above zero, and as worse if `high` is below zero."""
    shown = one.holm <= 1 - LEVEL
    return replace(one, verdict="better" if shown and low > 0 else "worse" if shown and high < 0 else "open")


def detectable_difference(first: Floats, second: Floats, clusters: Integers) -> float | None:
    """Return the smallest true difference that a test at 5 % detects with a power of 80 % on such a pair.

    Returns:
        The difference; none if no difference would be detected.
    """
    if len(set(clusters.tolist())) < 2:
        return None
    return statistics.smallest_difference(first, second, _design(clusters)).difference


def rank_intervals(scores: Floats, clusters: Integers) -> list[Rank] | None:
    """Return the rank of each row by its mean, with an interval; none with one image or one row."""
    if len(scores) < 2 or len(set(clusters.tolist())) < 2:
        return None
    return list(statistics.rank_intervals(scores, _design(clusters, RESAMPLES_OF_PAIRS)))


def win_tie_loss(blocks: Sequence[tuple[Floats, Integers]]) -> Record | None:
    """Return wins, ties and losses of every two rows over blocks; none with one image, one row, or no blocks."""
    if not blocks or len(blocks[0][0]) < 2 or any(len(set(clusters.tolist())) < 2 for _, clusters in blocks):
        return None
    return statistics.win_tie_loss([(scores, _design(clusters, RESAMPLES_OF_PAIRS)) for scores, clusters in blocks])


def order_transfer(first: Floats, second: Floats, clusters: Integers) -> Transfer | None:
    """Return how well two models, `[rows, samples]` each, agree on the order of rows; none with one image or row."""
    if len(first) < 2 or len(set(clusters.tolist())) < 2:
        return None
    return statistics.transfer(first, second, _design(clusters, RESAMPLES_OF_PAIRS))


def friedman_by_image(scores: Floats, clusters: Integers) -> Friedman | None:
    """Return Friedman's test of the rows' ranks over images; none with fewer than two images or three rows.

    Images are the blocks of the test, because these must be independent.
    """
    _, codes = np.unique(clusters, return_inverse=True)
    count = int(codes.max()) + 1
    if count < 2 or len(scores) < 3:
        return None
    sizes = np.bincount(codes)
    table = np.array([np.bincount(codes, row) / sizes for row in scores]).T
    return statistics.friedman(table)


def _design(clusters: Integers, resamples: int = RESAMPLES) -> Design:
    return Design(clusters=clusters.tolist(), level=LEVEL, resamples=resamples)


def _win_tie_loss_counts(delta: Floats) -> tuple[int, int, int]:
    wins, losses = int((delta > 1e-9).sum()), int((delta < -1e-9).sum())
    return wins, len(delta) - wins - losses, losses
