"""The order of methods: ranks with intervals, wins and losses, agreement, and Friedman's test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from tokensieve.errors import StudyError
from tokensieve.study.statistics.design import Array, Design, estimates, replicates, scores_of, within
from tokensieve.study.statistics.intervals import Interval, difference_intervals

Counts = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Rank:
    """The rank of a method; rank 1 is best.

    Attributes:
        rank: the observed rank; equal methods have the mean of their ranks.
        low: the best rank in the interval: one plus the number of methods that are significantly better.
        high: the worst rank in the interval: the number of methods minus those that are significantly worse.
        shares: the share of bootstrap samples with each rank; equal methods share their ranks evenly.
    """

    rank: float
    low: int
    high: int
    shares: tuple[float, ...]


def rank_intervals(
    scores: npt.ArrayLike, design: Design | None = None, bounds: tuple[float, float] = (0.0, 1.0)
) -> tuple[Rank, ...]:
    """Return the rank of every method with an interval.

    The intervals follow from simultaneous intervals of all pairs of methods, so they contain the true ranks of all
    methods together with probability `level` (Mogstad, Romano, Shaikh, Wilhelm 2024). Quantiles of bootstrapped
    ranks would be too narrow for methods that are nearly equal; `shares` shows how often the order changes by chance.

    Args:
        scores: `[methods, n]`, the score of each method on each sample.
        design: clusters and kinds of the samples.
        bounds: the smallest and largest possible score of a sample.

    Raises:
        StudyError: if the scores have another shape or range, or there are fewer than two clusters.
    """
    from scipy.stats import rankdata

    design, values = design or Design(), scores_of(scores)
    within(values, bounds)
    ahead = _significantly_better(values, design, bounds)
    observed = estimates(values, design.layout(values.shape[1]))
    # Rounded, because equal scores may differ in their last bit, depending on the order of summation.
    ranks = rankdata(-observed.round(12))
    shares = _shares(replicates(values, design, None))
    return tuple(
        Rank(
            float(ranks[place]),
            1 + int(ahead[:, place].sum()),
            len(values) - int(ahead[place].sum()),
            tuple(float(share) for share in shares[place]),
        )
        for place in range(len(values))
    )


@dataclass(frozen=True)
class Record:
    """Wins, ties and losses of every two methods, over blocks such as (model, task, budget).

    Attributes:
        wins: `[methods][methods]`, the number of blocks in which the first is significantly better than the second.
        ties: the number of blocks without a significant difference.
        losses: the number of blocks in which the first is significantly worse.
    """

    wins: Counts
    ties: Counts
    losses: Counts


def win_tie_loss(blocks: Sequence[tuple[npt.ArrayLike, Design]], bounds: tuple[float, float] = (0.0, 1.0)) -> Record:
    """Return wins, ties and losses of every two methods over blocks.

    Within a block the intervals of all pairs hold simultaneously, so the level is right for any number of pairs.
    Nothing is corrected for the number of blocks: of many blocks, a few may be wrong.

    Args:
        blocks: of each, scores `[methods, n]` and the design of their samples; the methods are the same in all.
        bounds: the smallest and largest possible score of a sample.

    Raises:
        StudyError: if there are no blocks, or they have different numbers of methods.
    """
    scores = [scores_of(values) for values, _ in blocks]
    counts = sorted({len(values) for values in scores})
    if len(counts) != 1:
        raise StudyError(f"blocks of wins and losses need the same methods; there are {counts or 'no'} methods.")
    wins = sum(
        (
            _significantly_better(values, design, bounds).astype(int)
            for values, (_, design) in zip(scores, blocks, strict=True)
        ),
        np.zeros((counts[0], counts[0]), int),
    )
    ties = len(scores) - wins - wins.T
    return Record(_table(wins), _table(ties), _table(wins.T))


@dataclass(frozen=True)
class Agreement:
    """The agreement of judges (seeds, models, budgets) on the order of methods.

    Attributes:
        w: Kendall's W: 1 if all orders are the same, 0 if there is no agreement.
        tau: the mean of Kendall's τ-b over pairs of judges; none if a judge ranks all methods equal.
        judges: the number of judges.
        methods: the number of methods.
    """

    w: float
    tau: float | None
    judges: int
    methods: int


def agreement(scores: npt.ArrayLike) -> Agreement:
    """Return how well judges agree on the order of methods.

    Args:
        scores: `[judges, methods]`, such as each method's accuracy under each seed; higher is better.

    Raises:
        StudyError: if there are fewer than two judges or methods.
    """
    from scipy.stats import kendalltau, rankdata

    values = scores_of(scores)
    judges, methods = values.shape
    if judges < 2 or methods < 2:
        raise StudyError(f"agreement takes two judges and two methods; there are {judges} and {methods}.")
    ranks = rankdata(-values, axis=1)
    spread = float(((ranks.sum(axis=0) - judges * (methods + 1) / 2) ** 2).sum())
    most = judges**2 * (methods**3 - methods) / 12 - judges * _tie_correction(ranks) / 12
    constant = bool((values == values[:, :1]).all(axis=1).any())
    taus = [] if constant else [float(np.asarray(kendalltau(a, b))[0]) for a, b in combinations(values, 2)]
    # Judges that all rank all methods equal agree.
    return Agreement(spread / most if most > 0 else 1.0, float(np.mean(taus)) if taus else None, judges, methods)


@dataclass(frozen=True)
class Transfer:
    """The agreement of two models on the order of methods.

    Attributes:
        tau: Kendall's τ-b of the two orders, as observed: 1 for the same, -1 for the opposite order; none if a model
            ranks all methods equal.
        low: the lower end of its interval.
        high: the upper end.
        same: the number of pairs of methods with significant differences on both models, in the same direction.
        opposite: the number of such pairs with opposite directions.
        pairs: the number of pairs.
    """

    tau: float | None
    low: float
    high: float
    same: int
    opposite: int
    pairs: int


def transfer(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    design: Design | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Transfer:
    """Return how well the order of methods carries over from one model to another.

    The interval of τ follows from simultaneous intervals of all pairs of methods on both models: a pair without a
    significant difference on both models may have the same or the opposite order. The interval contains the truth with
    probability `level`. Quantiles of τ over bootstrap samples would be wrong, because resampling adds disagreement.

    Args:
        first: `[methods, n]`, the score of each method on each sample on one model.
        second: `[methods, n]`, the same methods on the same samples on another model.
        design: clusters and kinds of the samples.
        bounds: the smallest and largest possible score of a sample.

    Raises:
        StudyError: if the scores have different shapes or another range, are of fewer than two methods, or there are
            fewer than two clusters.
    """
    design, one, other = design or Design(), scores_of(first, "first"), scores_of(second, "second")
    if one.shape != other.shape:
        raise StudyError(
            f"two models are compared by the same methods on the same samples; there are {one.shape} and "
            f"{other.shape} scores."
        )
    layout = design.layout(one.shape[1])
    # Rounded, because equal scores may differ in their last bit, depending on the order of summation.
    tau = agreement(np.array([estimates(values, layout).round(12) for values in (one, other)])).tau
    told = np.prod(_significant_signs([one, other], design, bounds), axis=0)
    same, opposite, pairs = int((told > 0).sum()), int((told < 0).sum()), len(told)
    open_ = pairs - same - opposite
    return Transfer(tau, (same - opposite - open_) / pairs, (same - opposite + open_) / pairs, same, opposite, pairs)


@dataclass(frozen=True)
class Friedman:
    """Friedman's test over blocks, with Nemenyi's critical difference, as in a critical-difference diagram.

    Attributes:
        ranks: the mean rank of each method over blocks; 1 is best.
        statistic: Friedman's χ², corrected for ties.
        p: its p-value by χ².
        p_f: the p-value by Iman and Davenport's F, which is more accurate for few blocks.
        difference: Nemenyi's critical difference; larger differences of mean ranks are significant.
        groups: the largest groups of methods, as indices, best first, without significant differences.
        blocks: the number of blocks.
    """

    ranks: tuple[float, ...]
    statistic: float
    p: float
    p_f: float
    difference: float
    groups: tuple[tuple[int, ...], ...]
    blocks: int


def friedman(scores: npt.ArrayLike, alpha: float = 0.05) -> Friedman:
    """Compare methods by their ranks over blocks (Demšar 2006).

    The test assumes independent blocks. Cells of one study are not: budgets share their images, and tasks share their
    model. So it shows how consistent an order is over the blocks of the study; it does not replace intervals.

    Args:
        scores: `[blocks, methods]`, such as each method's accuracy in each (model, task); higher is better.
        alpha: the error of the critical difference.

    Raises:
        StudyError: if there are fewer than two blocks or three methods.
    """
    from scipy.stats import chi2, f, rankdata

    values = scores_of(scores)
    blocks, methods = values.shape
    if blocks < 2 or methods < 3:
        raise StudyError(f"Friedman's test takes two blocks and three methods; there are {blocks} and {methods}.")
    ranks = rankdata(-values, axis=1)
    mean = ranks.mean(axis=0)
    tied = 1 - _tie_correction(ranks) / (blocks * (methods**3 - methods))
    raw = 12 * blocks / (methods * (methods + 1)) * float((mean**2).sum()) - 3 * blocks * (methods + 1)
    # If all methods are equal in all blocks, there is no evidence of a difference.
    statistic = raw / tied if tied > 0 else 0.0
    left = blocks * (methods - 1) - statistic
    ratio = (blocks - 1) * statistic / left if left > 1e-9 else np.inf
    width = critical_difference(methods, blocks, alpha)
    return Friedman(
        tuple(float(rank) for rank in mean),
        statistic,
        float(chi2.sf(statistic, methods - 1)),
        float(f.sf(ratio, methods - 1, (methods - 1) * (blocks - 1))),
        width,
        groups(mean, width),
        blocks,
    )


def critical_difference(methods: int, blocks: int, alpha: float = 0.05) -> float:
    """Return Nemenyi's critical difference of mean ranks over blocks.

    Raises:
        StudyError: if there are fewer than two methods, or no blocks.
    """
    from scipy.stats import studentized_range

    if methods < 2 or blocks < 1:
        raise StudyError(f"a critical difference takes two methods and a block; there are {methods} and {blocks}.")
    q = float(studentized_range.ppf(1 - alpha, methods, np.inf)) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * blocks)))


def groups(ranks: npt.ArrayLike, difference: float) -> tuple[tuple[int, ...], ...]:
    """Return the largest groups of methods in which no two differ by more than a critical difference.

    Args:
        ranks: `[methods]`, mean ranks.
        difference: the critical difference.
    """
    values = np.asarray(ranks, dtype=np.float64)
    order = sorted(range(len(values)), key=lambda place: values[place])
    found: list[tuple[int, ...]] = []
    end = 0
    for start in range(len(order)):
        reach = start
        while reach < len(order) and values[order[reach]] - values[order[start]] <= difference + 1e-12:
            reach += 1
        # A group that ends where the last one did is inside it; a single method is no group.
        if reach > end and reach - start > 1:
            found.append(tuple(order[start:reach]))
        end = max(end, reach)
    return tuple(found)


def _significantly_better(values: Array, design: Design, bounds: tuple[float, float]) -> npt.NDArray[np.bool_]:
    """Return which methods are significantly better than which, by simultaneous intervals, `[methods, methods]`."""
    ahead = np.zeros((len(values), len(values)), dtype=bool)
    pairs = combinations(range(len(values)), 2)
    for (one, other), told in zip(pairs, _significant_signs([values], design, bounds)[0], strict=True):
        ahead[one, other], ahead[other, one] = told > 0, told < 0
    return ahead


def _significant_signs(blocks: Sequence[Array], design: Design, bounds: tuple[float, float]) -> npt.NDArray[np.int_]:
    """Return whether the first of every pair is significantly better (1), worse (-1) or neither (0), `[blocks, pairs]`.

    The intervals of all pairs in all blocks, each `[methods, n]` on the same samples, hold simultaneously.
    """
    pairs = list(combinations(range(len(blocks[0])), 2))
    if not pairs:
        return np.zeros((len(blocks), 0), dtype=int)
    first, second = (list(places) for places in zip(*pairs, strict=True))
    found: Sequence[Interval] = difference_intervals(
        np.concatenate([values[first] for values in blocks]),
        np.concatenate([values[second] for values in blocks]),
        design,
        simultaneous=True,
        bounds=bounds,
    )
    return np.array([int(one.low > 0) - int(one.high < 0) for one in found]).reshape(len(blocks), len(pairs))


def _shares(drawn: Array) -> Array:
    """Return the share of bootstrap samples `[resamples, m]` in which each method has each rank, `[m, ranks]`."""
    scores = drawn.round(12)
    methods = scores.shape[1]
    shares = np.empty((methods, methods))
    for method in range(methods):
        own = scores[:, method, None]
        better, equal = (scores > own).sum(axis=1), (scores == own).sum(axis=1)
        places = np.arange(methods)
        inside = (better[:, None] <= places) & (places < (better + equal)[:, None])
        shares[method] = (inside / equal[:, None]).mean(axis=0)
    return shares


def _tie_correction(ranks: Array) -> float:
    """Return the sum over blocks and groups of equal ranks of t³ - t, for groups of t."""
    total = 0
    for row in ranks:
        _, sizes = np.unique(row, return_counts=True)
        total += int((sizes**3 - sizes).sum())
    return float(total)


def _table(counts: npt.NDArray[np.int_]) -> Counts:
    return tuple(tuple(int(count) for count in row) for row in counts)
