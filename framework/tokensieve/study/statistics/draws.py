"""Many numbers of a sample made one: random draws of a method, and budgets of a curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokensieve.errors import StudyError
from tokensieve.study.statistics.design import Array, scores_of


@dataclass(frozen=True, eq=False)
class Draws:
    """A method that draws at random, over its draws.

    Attributes:
        scores: `[n]`, every sample's mean over the draws: what to compare other methods with.
        means: the score of every draw.
        spread: the standard deviation of these; what papers print behind ± when they print seeds.
        noise: the standard error that the draws alone give the mean over all draws. An interval of `scores` holds it
            already, as draws are made anew for every sample; samples usually add far more.
    """

    scores: Array
    means: tuple[float, ...]
    spread: float
    noise: float


def over_draws(scores: npt.ArrayLike) -> Draws:
    """Join several draws of the same samples.

    Args:
        scores: `[draws, n]`, what the method has at each sample in each draw, each made anew for every sample.

    Raises:
        StudyError: if the scores have another shape, or are of one draw.
    """
    values = scores_of(scores)
    draws, samples = values.shape
    if draws < 2 or not samples:
        raise StudyError(f"to see what draws change, at least two draws are needed; there are {draws}.")
    means = values.mean(axis=1)
    noise = float(np.sqrt(values.var(axis=0, ddof=1).sum() / draws)) / samples
    return Draws(values.mean(axis=0), tuple(float(mean) for mean in means), float(means.std(ddof=1)), noise)


def budget_weights(budgets: Sequence[float]) -> tuple[float, ...]:
    """Return what each budget weighs in the area under a curve over the logarithm of the budget.

    The weights are those of trapezoids and add up to one, so the area is a mean score over the budgets between the
    smallest and the largest, in which every halving counts alike. It is linear: `weights @ scores`, with scores
    `[budgets, n]` of a method, is a score a sample, to be compared as any other.

    Args:
        budgets: tokens or parts, in any order, no two equal.

    Raises:
        StudyError: if there are fewer than two budgets, two are equal, or one is not above zero.
    """
    places = np.asarray(budgets, dtype=np.float64)
    if len(places) < 2 or len(np.unique(places)) < len(places) or not (np.isfinite(places) & (places > 0)).all():
        raise StudyError(f"an area takes at least two different budgets above zero; {list(budgets)} were given.")
    order = np.array(sorted(range(len(places)), key=lambda place: places[place]))
    steps = np.diff(np.log(places[order]))
    weights = np.empty(len(places))
    weights[order] = np.concatenate([[0.0], steps]) + np.concatenate([steps, [0.0]])
    return tuple(float(weight) for weight in weights / weights.sum())
