"""The study's statistics as reports use them: many at once, and answers about one picture drawn together."""

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
"""Enough for ends of intervals that are printed to a tenth of a point, and p-values to survive a hundred tests."""
FEWER = 1_000
"""For what takes intervals of all pairs."""


@dataclass(frozen=True)
class PairedDifference:
    """A paired difference.

    Attributes:
        value: the mean difference of shares of right answers.
        low: the lower end of its 95 % interval.
        high: the upper end.
        p: of no difference.
        holm: `p`, corrected for all differences that answer the same question.
        wins: samples where the first is better.
        ties: samples where both are equal.
        losses: samples where the second is better.
        verdict: what is shown after the correction.
        mcnemar: `p` by McNemar's exact test, which takes samples for independent of each other; none where it does not
            apply: an answer is neither right nor wrong, or all are about one picture.
        mcnemar_holm: the same, corrected for all such differences that answer the same question.
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
        """Return how many samples were compared."""
        return self.wins + self.ties + self.losses


def half_width(interval: Interval) -> float:
    """Return the larger distance of an interval's ends from its estimate, as in `87.3 ± 2.1`."""
    return max(interval.estimate - interval.low, interval.high - interval.estimate)


def mean_intervals(scores: Floats, clusters: Integers) -> list[Interval]:
    """Return an interval for the mean of each row.

    Args:
        scores: `[rows, samples]`, in [0, 1].
        clusters: `[samples]`, equal for samples of one picture. With only one picture nothing is known of others, so
            an interval is all of [0, 1].
    """
    if not len(scores):
        return []
    if len(set(clusters.tolist())) < 2:
        return [Interval(float(row.mean()), 0.0, 1.0, LEVEL, len(row), 1) for row in scores]
    return list(statistics.score_intervals(scores, _design(clusters)))


def paired_differences(first: Floats, second: Floats, clusters: Integers) -> list[PairedDifference]:
    """Return the paired difference of each row of two arrays, corrected for their number.

    Args:
        first: `[rows, samples]`, in [0, 1].
        second: `[rows, samples]`, likewise.
        clusters: `[samples]`.
    """
    if not len(first):
        return []
    counts = [_counted(one - other) for one, other in zip(first, second, strict=True)]
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
    """Return differences with Holm's correction over all of them, and the verdicts that follow."""
    return [_judged(one, one.value, one.value) for one in _holm(found)]


def best_control_differences(methods: Floats, controls: Floats, clusters: Integers) -> list[PairedDifference]:
    """Return each method's difference to the best of the controls, knowing that the same samples picked it.

    To be better than the best is to be better than every control, and to be worse is to be worse than some. The
    p-value is of neither: twice the smaller of both sides', where the second counts the controls that were tried.
    McNemar's is against the first control alone. Not corrected for the number of methods.

    Args:
        methods: `[methods, samples]`.
        controls: `[controls, samples]`, the best first.
        clusters: `[samples]`.
    """
    counts = [_counted(row - controls[0]) for row in methods]
    if len(set(clusters.tolist())) < 2:
        return paired_differences(methods, np.broadcast_to(controls[0], methods.shape), clusters)
    design = _design(clusters)
    found = statistics.against_best(methods, controls, design)
    # The p-value of being no worse than any of the controls.
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
    """Return differences to best controls, corrected over all of them: a verdict takes the p-value and the interval."""
    return [_judged(one, one.low, one.high) for one in _holm(found)]


def _holm(found: Sequence[PairedDifference]) -> list[PairedDifference]:
    """Return differences with their p-values corrected for their number."""
    exact = iter(statistics.holm([one.mcnemar for one in found if one.mcnemar is not None]))
    return [
        replace(one, holm=p, mcnemar_holm=None if one.mcnemar is None else next(exact))
        for one, p in zip(found, statistics.holm([one.p for one in found]), strict=True)
    ]


def _mcnemar(first: Floats, second: Floats) -> float | None:
    """Return McNemar's exact p-value, or none where some answer is neither right nor wrong."""
    binary = np.isin([first, second], (0, 1)).all()
    return statistics.mcnemar(first, second).exact if binary else None


def _judged(one: PairedDifference, low: float, high: float) -> PairedDifference:
    """Return a difference with its verdict: better where `low` is above zero, worse where `high` is below."""
    shown = one.holm <= 1 - LEVEL
    return replace(one, verdict="better" if shown and low > 0 else "worse" if shown and high < 0 else "open")


def detectable_difference(first: Floats, second: Floats, clusters: Integers) -> float | None:
    """Return the smallest true difference that is found at 5 % with a power of 80 % between a pair like this.

    None if no difference would be.
    """
    if len(set(clusters.tolist())) < 2:
        return None
    return statistics.smallest_difference(first, second, _design(clusters)).difference


def rank_intervals(scores: Floats, clusters: Integers) -> list[Rank] | None:
    """Return each row's rank by its mean, with the places that it may truly have; none with one picture or one row."""
    if len(scores) < 2 or len(set(clusters.tolist())) < 2:
        return None
    return list(statistics.rank_intervals(scores, _design(clusters, FEWER)))


def win_tie_loss(blocks: Sequence[tuple[Floats, Integers]]) -> Record | None:
    """Return in how many blocks each row is surely better than each other; none where there is nothing to count."""
    if not blocks or len(blocks[0][0]) < 2 or any(len(set(clusters.tolist())) < 2 for _, clusters in blocks):
        return None
    return statistics.win_tie_loss([(scores, _design(clusters, FEWER)) for scores, clusters in blocks])


def order_transfer(first: Floats, second: Floats, clusters: Integers) -> Transfer | None:
    """Say how far two models, `[rows, samples]` each, order rows alike; none with one picture or one row."""
    if len(first) < 2 or len(set(clusters.tolist())) < 2:
        return None
    return statistics.transfer(first, second, _design(clusters, FEWER))


def friedman_by_image(scores: Floats, clusters: Integers) -> Friedman | None:
    """Compare rows by their ranks over pictures; none with fewer than two pictures or three rows.

    Pictures are independent of each other, as blocks of this test must be.
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


def _counted(delta: Floats) -> tuple[int, int, int]:
    wins, losses = int((delta > 1e-9).sum()), int((delta < -1e-9).sum())
    return wins, len(delta) - wins - losses, losses
