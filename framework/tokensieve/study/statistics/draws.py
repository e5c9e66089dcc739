"""Means over random draws of a method, and weights of budgets for the area under a curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokensieve.errors import StudyError
from tokensieve.study.statistics.design import Array, scores_of


@dataclass(frozen=True, eq=False)
class Draws:
    """The scores of a method over its random draws.

    Attributes:
        scores: `[n]`, the mean over draws of each sample, to be compared with other methods.
        means: the score of each draw.
        spread: the standard deviation of `means`; papers print it after ± for seeds.
        noise: the standard error of the mean over draws that comes from the draws alone. An interval of `scores`
            includes it, because every sample has its own draw; the samples usually contribute far more.
    """

    scores: Array
    means: tuple[float, ...]
    spread: float
    noise: float


def over_draws(scores: npt.ArrayLike) -> Draws:
    """Return the scores of a method over several draws.

    Args:
        scores: `[draws, n]`, the score on each sample in each draw; every sample has its own draw.

    Raises:
        StudyError: if the scores have another shape, or there is only one draw.
    """
    values = scores_of(scores)
    draws, samples = values.shape
    if draws < 2 or not samples:
        raise StudyError(f"to see what draws change, at least two draws are needed; there are {draws}.")
    means = values.mean(axis=1)
    noise = float(np.sqrt(values.var(axis=0, ddof=1).sum() / draws)) / samples
    return Draws(values.mean(axis=0), tuple(float(mean) for mean in means), float(means.std(ddof=1)), noise)


def budget_weights(budgets: Sequence[float]) -> tuple[float, ...]:
    """Return the weight of each budget in the area under a curve over the logarithm of the budget.

    The weights are those of the trapezoidal rule and add up to one. So the area is a mean score over the budgets from
    the smallest to the largest, in which every halving has the same weight. It is linear: `weights @ scores`, with the
    scores `[budgets, n]` of a method, is a score for each sample, which can be compared like any other.

    Args:
        budgets: counts or fractions of tokens, in any order, all different.

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
