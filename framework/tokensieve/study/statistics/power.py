"""The power of a paired comparison: the smallest difference that a number of samples detects."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokensieve.errors import StudyError
from tokensieve.study.statistics.design import Design, scores_of


@dataclass(frozen=True)
class Power:
    """The power of a comparison of two methods.

    Attributes:
        difference: the smallest difference that is detected with probability `power`; none if no difference is, because
            the methods disagree on too few samples.
        discordance: the share of samples on which the two differ; for scores between 0 and 1, the mean squared
            difference.
        design_effect: the number of these samples that are worth one independent sample.
        samples: the number of samples.
        power: the probability of detecting the difference.
        alpha: the probability of a false detection over all comparisons.
        comparisons: the number of comparisons that share `alpha`.
    """

    difference: float | None
    discordance: float
    design_effect: float
    samples: int
    power: float
    alpha: float
    comparisons: int


def detectable(
    samples: int,
    discordance: float,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
    design_effect: float = 1.0,
    comparisons: int = 1,
) -> float | None:
    """Return the smallest paired difference that a number of samples detects; none if they detect none.

    The formula is that of McNemar's test: √n δ = z₁ √ψ + z₂ √(ψ - δ²), for discordance ψ and difference δ, with the
    quantiles z₁ of the error and z₂ of the power.

    Args:
        samples: the number of samples.
        discordance: the share of samples on which the two methods differ.
        power: the probability of detecting the difference.
        alpha: the two-sided probability of a false detection.
        design_effect: the number of samples that are worth one independent sample.
        comparisons: the number of comparisons that share `alpha`, as in the first step of Holm's method.

    Raises:
        StudyError: if a value is out of range.
    """
    first, second = _quantiles(discordance, power, alpha, comparisons)
    _check(samples >= 1 and design_effect > 0, "samples must be at least 1 and a design effect above 0")
    n = samples / design_effect
    # The root of (n + z₂²) δ² - 2 √(n ψ) z₁ δ + (z₁² - z₂²) ψ that lies above z₁ √(ψ / n).
    inner = n + second**2 - first**2
    if inner < 0 or discordance == 0:
        return None
    found = math.sqrt(discordance) * (math.sqrt(n) * first + second * math.sqrt(inner)) / (n + second**2)
    # A difference cannot be larger than the share of samples on which the methods differ.
    return found if found <= discordance else None


def samples_needed(
    difference: float,
    discordance: float,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
    design_effect: float = 1.0,
    comparisons: int = 1,
) -> int:
    """Return the number of samples that detect a paired difference; the other arguments are those of `detectable`.

    Raises:
        StudyError: if a value is out of range, or the difference is larger than the discordance.
    """
    first, second = _quantiles(discordance, power, alpha, comparisons)
    size = abs(difference)
    _check(
        0 < size <= discordance and design_effect > 0,
        f"a difference of {difference:g} takes a discordance of at least as much, and a design effect above 0",
    )
    root = first * math.sqrt(discordance) + second * math.sqrt(discordance - size**2)
    return math.ceil(design_effect * (root / size) ** 2)


def smallest_difference(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    design: Design | None = None,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
    comparisons: int = 1,
) -> Power:
    """Return the smallest difference that such samples detect between methods that differ as often as these two.

    Args:
        first: `[n]`, the score of a method on each sample, between 0 and 1.
        second: `[n]`, the score of another method.
        design: clusters and kinds of the samples.
        power: the probability of detecting the difference.
        alpha: the two-sided probability of a false detection.
        comparisons: the number of comparisons that share `alpha`.

    Raises:
        StudyError: if both do not have the same samples.
    """
    one, other = (scores_of(np.atleast_2d(np.asarray(given, dtype=np.float64))) for given in (first, second))
    _check(one.shape == other.shape and len(one) == 1, "two methods' scores of the same samples are compared")
    difference = one - other
    discordance, effect = float((difference**2).mean()), design_effect(difference[0], design)
    found = detectable(
        one.shape[1], discordance, power=power, alpha=alpha, design_effect=effect, comparisons=comparisons
    )
    return Power(found, discordance, effect, one.shape[1], power, alpha, comparisons)


def design_effect(values: npt.ArrayLike, design: Design | None = None) -> float:
    """Return the number of these samples that are worth one independent sample.

    It is the variance of the score with clusters and kinds, divided by the variance of a mean of as many independent
    samples. It is 1 if nothing varies.

    Args:
        values: `[n]`: scores, or differences of scores.
        design: clusters and kinds of the samples.

    Raises:
        StudyError: if there are fewer than two clusters.
    """
    row = scores_of(np.atleast_2d(np.asarray(values, dtype=np.float64)))
    samples = row.shape[1]
    layout = (design or Design()).layout(samples)
    _check(layout.clusters > 1, "a design effect takes at least two clusters, and all samples belong to one")
    plain = float(row.var(ddof=1)) / samples
    if plain == 0:
        return 1.0
    parts = layout.by_cluster(layout.centred(row) * layout.weights)
    between = float((parts**2).sum())
    effect: float = between * layout.clusters / (layout.clusters - 1) / plain
    return effect


def _quantiles(discordance: float, power: float, alpha: float, comparisons: int) -> tuple[float, float]:
    from scipy.stats import norm

    _check(0 <= discordance <= 1, f"a discordance is a part of the samples, between 0 and 1; {discordance:g} is none")
    _check(0 < alpha < 1 and comparisons >= 1, "alpha lies between 0 and 1, shared by at least 1 comparison")
    _check(0.5 <= power < 1, f"power lies between 0.5 and 1; {power:g} was given")
    return float(norm.isf(alpha / comparisons / 2)), float(norm.ppf(power))


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise StudyError(f"{otherwise}.")
