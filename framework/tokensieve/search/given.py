"""The recipes that a search starts from and is compared with: those of its study, and those that are shipped."""

from __future__ import annotations

from tokensieve.errors import RefusedError, TokensieveError
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe
from tokensieve.search.bench import Bench
from tokensieve.search.trial import Candidate
from tokensieve.study.spec.budget import Budget
from tokensieve.study.spec.study import Study


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
