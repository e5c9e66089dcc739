"""The recipes that a search starts from and is compared with: those of its study, and those that are shipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from tokensieve.algebra.budget import Keep
from tokensieve.errors import RefusedError, TokensieveError
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe
from tokensieve.search.bench import Bench
from tokensieve.search.trial import Candidate, Trial
from tokensieve.sites import Site
from tokensieve.study.spec.budget import Budget
from tokensieve.study.spec.study import Study

MOST_MATCHED = 3
"""How many of the given recipes are also tried with as many tokens as a found one has."""
FINEST = 100
"""The largest denominator of a budget that is made for that."""


def budgets_of_study(study: Study) -> tuple[Budget, ...]:
    """Return the budgets of a study; those of its models where it has none of its own."""
    own = [budget for model in study.models for budget in model.keep or ()]
    return study.keep or tuple(dict.fromkeys(own))


def given_candidates(
    study: Study, registry: Registry, bench: Bench, shipped: bool = True
) -> tuple[dict[str, Candidate], dict[str, str]]:
    """Return the recipes that are given, at every budget that they can have.

    Args:
        study: the study.
        registry: where shipped recipes are looked up.
        bench: the models that have to be able to run them.
        shipped: whether shipped recipes are given, too.

    Returns:
        Candidates by name, and why others were left out.
    """
    budgets = budgets_of_study(study)
    entries = {entry.name: (entry.recipe, entry.keep or budgets) for entry in study.recipes}
    for name in registry.recipes if shipped else ():
        entries.setdefault(name, (Recipe.load(name, registry), budgets))
    candidates: dict[str, Candidate] = {}
    left_out: dict[str, str] = {}
    for name, (recipe, own) in entries.items():
        for budget in own:
            try:
                candidate = _fitting(recipe, budget, bench)
            except TokensieveError as error:
                left_out[f"{name} at {budget}"] = str(error)
            else:
                candidates[f"{name} at {budget}"] = candidate
    # Of recipes that are the same, the first one is given.
    first = {one.hash: name for name, one in reversed(candidates.items())}
    return {name: one for name, one in candidates.items() if first[one.hash] == name}, left_out


def matched_candidates(
    found: Sequence[Trial], given: Sequence[Trial], tokens: Mapping[str, float], bench: Bench
) -> dict[str, Candidate]:
    """Return the best given recipes with as many tokens as found ones have, where no budget of the study gives that.

    A found recipe that cuts late has more tokens than its budget says, and must not be compared with recipes of fewer
    tokens alone. One cut before the language model to the same mean number of tokens per layer has at most its FLOPs,
    because attention grows faster than the number of tokens.

    Args:
        found: the trials that are confirmed.
        given: the recipes that were given, measured on the pictures of the search.
        tokens: the share of visual tokens of each of both, by name.
        bench: the models that have to be able to run them.
    """
    first = Site("decoder", 0)
    early = [
        one
        for one in sorted(given, key=lambda one: -(one.measured.accuracy if one.measured else 0.0))
        if one.measured and one.candidate and [stage.at for stage in one.candidate.recipe.stages] == [first]
    ]
    best = list({_base(one): one.candidate for one in early if one.candidate}.items())[:MOST_MATCHED]
    matched: dict[str, Candidate] = {}
    for trial in found:
        share = Fraction(int(tokens[trial.name] * FINEST), FINEST)
        near = [one for one in early if abs(tokens[one.name] - tokens[trial.name]) <= 1 / FINEST]
        if near or not 0 < share < 1:
            continue
        budget = Budget(keeps=(Keep(fraction=share),))
        for name, candidate in best:
            try:
                matched[f"{name} at {budget}"] = _fitting(candidate.base or candidate.recipe, budget, bench)
            except TokensieveError:
                # It keeps a set of its own size, so no budget makes it as dear.
                continue
    return matched


def _base(trial: Trial) -> str:
    """Return the name of a given recipe without its budget."""
    return trial.name.rpartition(" at ")[0]


def _fitting(recipe: Recipe, budget: Budget, bench: Bench) -> Candidate:
    """Return a recipe at a budget.

    Raises:
        TokensieveError: if it cannot have the budget, or a model cannot run it.
    """
    candidate = Candidate.of(recipe, budget)
    # Warnings are their authors' business.
    why = bench.why_not(candidate.recipe, strict=False)
    if why is not None:
        raise RefusedError(why)
    return candidate
