"""Confirming on pictures that the search did not see: what was found against every recipe that was given.

The best of many on the pictures of a search looks better than it is, because luck was selected, too. On other pictures
it has only what it is worth. So what is said of a found recipe is said of these alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tokensieve.errors import StudyError
from tokensieve.search.bench import Bench, Scores
from tokensieve.search.trial import Candidate, Measured, Trial
from tokensieve.study.spec.entries import MethodEntry
from tokensieve.study.spec.study import Study
from tokensieve.study.statistics import Design, Interval, against_best, holm, score_intervals

MOST_CONFIRMED = 8
"""The most found recipes that are confirmed: with every one more, each has to be better to be shown so."""
LEVEL = 0.95
RESAMPLES = 10_000
SAME_COST = 0.005
"""By which share of the unpruned model's cost a given recipe may be dearer, and still be compared."""
Verdict = Literal["better", "worse", "open", "alone"]


@dataclass(frozen=True)
class Confirmed:
    """A recipe on both parts of the pictures.

    Attributes:
        name: its name in tables.
        candidate: the recipe at its budget; none for the unpruned model.
        calibration: accuracy and cost on the pictures of the search.
        held_out: accuracy and cost on the others.
        interval: the interval of the held-out accuracy.
    """

    name: str
    candidate: Candidate | None
    calibration: Measured
    held_out: Measured
    interval: Interval

    @property
    def lost(self) -> float:
        """Return by how much the accuracy is lower on held-out pictures."""
        return self.calibration.accuracy - self.held_out.accuracy


@dataclass(frozen=True)
class Comparison:
    """A found recipe against every given one that costs no more, on held-out pictures.

    Attributes:
        found: the found recipe.
        opponent: the name of the given recipe of at most its cost that has most right; none if all are dearer.
        opponents: the number of these recipes.
        difference: the difference to the truly best of them; the intervals of all found recipes hold simultaneously.
        p: the p-value of being no better than some of them.
        p_holm: `p` after Holm's correction for the number of found recipes.
    """

    found: Confirmed
    opponent: str | None = None
    opponents: int = 0
    difference: Interval | None = None
    p: float = 1.0
    p_holm: float = 1.0

    @property
    def verdict(self) -> Verdict:
        """Return whether it is better or worse than the best given recipe of at most its cost, or this is open."""
        if self.difference is None:
            return "alone"
        if self.p_holm <= 1 - LEVEL and self.difference.low > 0:
            return "better"
        return "worse" if self.difference.high < 0 else "open"


@dataclass(frozen=True)
class Confirmation:
    """What a search found, on held-out pictures.

    Attributes:
        comparisons: of the found recipes, the cheapest first.
        given: the recipes that were given.
        unpruned: the unpruned model.
        samples: the number of held-out samples.
        pictures: the number of held-out pictures.
    """

    comparisons: tuple[Comparison, ...]
    given: tuple[Confirmed, ...]
    unpruned: Confirmed
    samples: int
    pictures: int

    @property
    def best(self) -> Comparison | None:
        """Return the comparison with most evidence for the found recipe; of equal ones, the largest difference."""
        return min(self.comparisons, key=lambda one: (one.p_holm, one.p, -_estimate(one)), default=None)


def _estimate(one: Comparison) -> float:
    return one.found.held_out.accuracy if one.difference is None else one.difference.estimate


def chosen(front: Sequence[Trial], most: int = MOST_CONFIRMED) -> tuple[Trial, ...]:
    """Return at most a number of trials of a front, evenly spaced from its cheapest to its best."""
    if len(front) <= most:
        return tuple(front)
    places = dict.fromkeys(round(place * (len(front) - 1) / (most - 1)) for place in range(most))
    return tuple(front[place] for place in places)


def confirmation_study(study: Study, found: Sequence[Trial], given: Mapping[str, Candidate]) -> Study:
    """Return a study of what was found and what was given, at the budgets at which these were measured.

    Args:
        study: the study with the held-out part of the pictures.
        found: the trials that are confirmed.
        given: the given recipes at their budgets, by name.
    """
    entries = []
    for trial in found:
        if trial.candidate is None:
            raise StudyError(f"'{trial.name}' has no recipe")
        entries.append(MethodEntry(name=trial.name, recipe=trial.candidate.recipe, keep=(trial.candidate.budget,)))
    by_recipe: dict[str, list[Candidate]] = {}
    for name, candidate in given.items():
        by_recipe.setdefault(name.removesuffix(f" at {candidate.budget}"), []).append(candidate)
    for name, candidates in by_recipe.items():
        keeps = tuple(one.budget for one in candidates)
        entries.append(MethodEntry(name=name, recipe=candidates[0].base or candidates[0].recipe, keep=keeps))
    return study.model_copy(update={"name": f"{study.name} confirmed", "recipes": tuple(entries)})


def confirm(
    found: Sequence[Trial], given: Sequence[Trial], calibration: Bench, held_out: Bench, design: Design | None = None
) -> Confirmation:
    """Compare what was found with what was given, on held-out pictures.

    A recipe that failed there is left out.

    Args:
        found: the trials that are confirmed.
        given: the recipes that were given.
        calibration: the pictures of the search.
        held_out: the others.
        design: level, resamples and seed; clusters are pictures.

    Raises:
        StudyError: if nothing that was found was measured there.
    """
    settings = design or Design(level=LEVEL, resamples=RESAMPLES)
    known, found = (
        [one for one in some if one.candidate and one.measured and held_out.has(one.candidate)]
        for some in (given, found)
    )
    if not found:
        raise StudyError("everything that was found failed on held-out pictures; `failures` there has the reasons")
    rows = [None, *(one.candidate for one in [*known, *found])]
    scores = [held_out.scores(one) for one in rows]
    first = scores[0]
    design = replace(settings, clusters=first.clusters, kinds=first.pairs)
    intervals = score_intervals(np.array([one.correct for one in scores]), design)
    names = ["unpruned", *(one.name for one in [*known, *found])]
    confirmed = [
        Confirmed(name, row, calibration.scores(row).measured, one.measured, interval)
        for name, row, one, interval in zip(names, rows, scores, intervals, strict=True)
    ]
    others = list(zip(confirmed[1 : 1 + len(known)], scores[1 : 1 + len(known)], strict=True))
    ours = list(zip(confirmed[1 + len(known) :], scores[1 + len(known) :], strict=True))
    return Confirmation(
        tuple(sorted(_compare(ours, others, design), key=lambda one: one.found.held_out.cost)),
        tuple(one for one, _ in others),
        confirmed[0],
        len(first.correct),
        len(set(first.clusters)),
    )


def _compare(
    ours: Sequence[tuple[Confirmed, Scores]], others: Sequence[tuple[Confirmed, Scores]], design: Design
) -> list[Comparison]:
    # With a level of 1 - 5 % / m for each, all m intervals hold together at 95 % (Bonferroni).
    each = replace(design, level=1 - (1 - design.level) / max(len(ours), 1))
    made: list[Comparison] = []
    for one, scores in ours:
        affordable = [(other, row) for other, row in others if row.cost <= scores.cost + SAME_COST]
        if not affordable:
            made.append(Comparison(one))
            continue
        controls = np.array([row.correct for _, row in affordable])
        (against,) = against_best(scores.correct[None], controls, each)
        opponent = affordable[against.control][0].name
        made.append(Comparison(one, opponent, len(affordable), against.difference, against.p, against.p))
    adjusted = iter(holm([one.p for one in made if one.difference is not None]))
    return [one if one.difference is None else replace(one, p_holm=next(adjusted)) for one in made]
