"""Intervals and tests as reports use them: answers about one picture are drawn together, because they hang together.

The one place where reports meet the study's statistics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

DRAWS = 2_000
SEED = 20_240


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval.

    Attributes:
        value: the mean.
        low: the lower end.
        high: the upper end.
    """

    value: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """Give the larger distance of an end, as in `87.3 ± 2.1`."""
        return max(self.value - self.low, self.high - self.value)


@dataclass(frozen=True)
class Paired(Interval):
    """A mean paired difference with its interval and the p-value of no difference."""

    p: float


def mean(values: Floats, clusters: Integers) -> Interval:
    """Give a mean with a bootstrap interval over clusters.

    Args:
        values: `[samples]`.
        clusters: `[samples]`, equal for samples that are drawn together.
    """
    sums, sizes = _by_cluster(values, clusters)
    weights = _weights(len(sums))
    low, high = np.quantile((weights @ sums) / (weights @ sizes), [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))


def paired(first: Floats, second: Floats, clusters: Integers) -> Paired:
    """Give the mean of `first - second`, its interval, and a sign-flip p-value over clusters."""
    delta = first - second
    found = mean(delta, clusters)
    sums, _ = _by_cluster(delta, clusters)
    flipped = np.abs(_signs(len(sums)) @ sums)
    p = (1 + int((flipped >= abs(sums.sum()) - 1e-12).sum())) / (1 + len(flipped))
    return Paired(found.value, found.low, found.high, float(p))


def holm(ps: Sequence[float]) -> list[float]:
    """Give p-values after Holm's correction, in the same order."""
    corrected = [0.0] * len(ps)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda place: ps[place])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[place]))
        corrected[place] = largest
    return corrected


def detectable(delta: Floats, clusters: Integers) -> float:
    """Give the smallest true difference that is found at 5 % with a power of 80 %, when differences spread like these.

    Args:
        delta: `[samples]`, differences of a pair that is typical.
        clusters: `[samples]`.
    """
    sums, sizes = _by_cluster(delta, clusters)
    residuals = sums - sizes * delta.mean()
    count = len(sums)
    error = math.sqrt(float((residuals**2).sum()) * count / max(1, count - 1)) / float(sizes.sum())
    return (1.959964 + 0.841621) * error


def _by_cluster(values: Floats, clusters: Integers) -> tuple[Floats, Floats]:
    _, codes = np.unique(clusters, return_inverse=True)
    return np.bincount(codes, values).astype(np.float64), np.bincount(codes).astype(np.float64)


@lru_cache(maxsize=8)
def _weights(count: int) -> Floats:
    """Give how often each cluster was drawn, `[draws, clusters]`; the same draws for everything of one size."""
    draws = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    return draws.astype(np.float64)


@lru_cache(maxsize=8)
def _signs(count: int) -> Floats:
    return np.random.default_rng(SEED).choice([-1.0, 1.0], size=(DRAWS, count))
