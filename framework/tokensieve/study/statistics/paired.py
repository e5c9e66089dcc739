"""Tests of paired outcomes, and Holm's correction for many tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tokensieve.errors import StudyError
from tokensieve.study.statistics.design import Array, Design, paired

Alternative = Literal["two-sided", "greater"]


@dataclass(frozen=True)
class McNemar:
    """McNemar's test of two methods on independent samples.

    Attributes:
        wins: the number of samples that only the first has right.
        losses: the number of samples that only the second has right.
        exact: the p-value: the probability of a split at least as uneven if both methods are equal. It is conservative.
        mid: the mid-p-value, which counts only half of the probability of the observed split. It is less conservative.
    """

    wins: int
    losses: int
    exact: float
    mid: float


def mcnemar(first: npt.ArrayLike, second: npt.ArrayLike) -> McNemar:
    """Return McNemar's test of the right and wrong answers of two methods on the same independent samples.

    Args:
        first: `[n]`, 1 where the first method is right, else 0.
        second: `[n]`, the same for the second method.

    Raises:
        StudyError: if the shapes differ, or an outcome is neither right nor wrong.
    """
    from scipy.stats import binom

    one, other = np.asarray(first), np.asarray(second)
    if one.shape != other.shape or one.ndim != 1:
        raise StudyError(f"McNemar's test pairs samples; {one.shape} and {other.shape} outcomes were given.")
    if not (np.isin(one, (0, 1)).all() and np.isin(other, (0, 1)).all()):
        raise StudyError(
            "McNemar's test takes right (1) and wrong (0) answers, and some are neither, "
            "as means over draws and partial credit are; use `sign_flip`."
        )
    wins, losses = int((one > other).sum()), int((one < other).sum())
    fewer, both = min(wins, losses), wins + losses
    tail, point = float(binom.cdf(fewer, both, 0.5)), float(binom.pmf(fewer, both, 0.5))
    if wins == losses:
        # The observed split is in both tails, and counts once.
        return McNemar(wins, losses, 1.0, 1 - point / 2)
    return McNemar(wins, losses, min(1.0, 2 * tail), 2 * tail - point)


def sign_flip(
    scores: npt.ArrayLike, base: npt.ArrayLike, design: Design | None = None, alternative: Alternative = "two-sided"
) -> tuple[float, ...]:
    """Return, for every method, the probability of a difference to the base at least this large if both are equal.

    If they are, their names may be swapped in any picture: the sign of all its differences flips together. The p value
    is the part of such flips that give a difference as large. All flips are tried where `resamples` is enough for
    that, else `resamples` random ones, the same for all methods. With a cluster a sample and right or wrong answers,
    this is McNemar's exact test.

    Args:
        scores: `[methods, n]`, the score of each method on each sample.
        base: `[n]`, the scores of the base; or `[methods, n]`, a base for each method.
        design: clusters and kinds of the samples.
        alternative: whether differences in both directions count, or only those in favour of the method.

    Raises:
        StudyError: if the base does not have the same samples.
    """
    design, differences = design or Design(), paired(scores, base)
    layout = design.layout(differences.shape[1])
    sums = layout.by_cluster(differences * layout.weights)
    few = 2.0 ** np.count_nonzero(sums, axis=0) <= design.resamples
    found = np.empty(len(differences))
    for method in np.flatnonzero(few):
        moved = sums[sums[:, method] != 0, method]
        signs = 1.0 - 2 * (np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1)
        found[method] = _as_large(signs @ moved[:, None], moved[:, None], alternative).mean()
    rest = sums[:, ~few]
    if rest.shape[1]:
        # The observed signs count as one flip, so that the p-value is neither too small nor zero.
        found[~few] = (1 + _flipped(rest, design, alternative)) / (1 + design.resamples)
    return tuple(float(p) for p in found)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return p-values after Holm's correction for their number.

    If every adjusted value of at most 5 % is rejected, at most 5 % of studies have any wrong rejection, however the
    tests depend on each other.

    Raises:
        StudyError: if a p-value is outside of [0, 1].
    """
    given = np.asarray(p_values, dtype=np.float64)
    if not ((given >= 0) & (given <= 1)).all():
        raise StudyError(f"p values lie between 0 and 1; {', '.join(f'{p:g}' for p in p_values)} were given.")
    order = sorted(range(len(given)), key=lambda place: given[place])
    adjusted, largest = [0.0] * len(given), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(given) - rank) * float(given[place])))
        adjusted[place] = largest
    return tuple(adjusted)


def _flipped(sums: Array, design: Design, alternative: Alternative) -> Array:
    """Return the number of random flips with a difference at least as large, `[m]`."""
    random = np.random.default_rng(design.seed)
    step = max(1, (1 << 22) // len(sums))
    count = np.zeros(sums.shape[1])
    for start in range(0, design.resamples, step):
        rows = min(step, design.resamples - start)
        signs = 1.0 - 2 * random.integers(0, 2, (rows, len(sums)), dtype=np.int8)
        count += _as_large(signs @ sums, sums, alternative).sum(axis=0)
    return count


def _as_large(flipped: Array, sums: Array, alternative: Alternative) -> npt.NDArray[np.bool_]:
    """Return which flips `[flips, m]` have a difference at least as large as observed."""
    # Equal sums may differ in their last bit, depending on the order of summation.
    slack = 1e-9 * np.abs(sums).sum(axis=0)
    observed = sums.sum(axis=0)
    if alternative == "two-sided":
        flipped, observed = np.abs(flipped), np.abs(observed)
    large: npt.NDArray[np.bool_] = flipped >= observed - slack
    return large
