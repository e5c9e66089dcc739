"""A study's budget, applied to a recipe."""

from __future__ import annotations

from fractions import Fraction
from math import prod

from tokensieve.algebra.budget import Keep
from tokensieve.errors import BudgetError
from tokensieve.recipes.recipe import Recipe
from tokensieve.study.spec.budget import Budget


def with_budget(recipe: Recipe, budget: Budget) -> Recipe:
    """Return a recipe with a budget of a study.

    A list has a budget for each stage. A single budget is that of the last stage. If it is a fraction, it is a fraction
    of all visual tokens of the image, also after earlier stages. A recipe's own `budgets` for a count are used first.

    Raises:
        BudgetError: if the recipe cannot have this budget.
    """
    if not budget.keeps:
        return recipe
    stages = recipe.stages
    if len(budget.keeps) == len(stages):
        return recipe.replace(keep=list(budget.keeps))
    if len(budget.keeps) > 1:
        raise BudgetError(f"'{recipe.name}' has {len(stages)} stages, so it cannot have {len(budget.keeps)} budgets")
    last = next(iter(budget.keeps))
    if last.count in recipe.budgets:
        return recipe.replace(keep=last.count)
    before = [stage.keep for stage in stages[:-1]]
    own = "; give it budgets of its own: {use: ..., keep: [[...], own]}"
    if any(keep.less is not None or keep.auto for keep in [*before, stages[-1].keep]):
        raise BudgetError(f"'{recipe.name}' says how many tokens go in each of {len(stages)} stages{own}")
    fractions = [keep.fraction for keep in before if keep.fraction is not None]
    if last.fraction is not None:
        if len(fractions) < len(before):
            raise BudgetError(f"'{recipe.name}' has counts in earlier stages, so {last} says no number{own}")
        left = prod(fractions, start=Fraction(1))
        if last.fraction >= left:
            raise BudgetError(f"'{recipe.name}' keeps only {left} before its last stage, so not {last}{own}")
        last = Keep(fraction=last.fraction / left)
    fewest = min((keep.count for keep in before if keep.count is not None), default=None)
    if fewest is not None and (last.count or 0) >= fewest:
        raise BudgetError(f"'{recipe.name}' keeps only {fewest} before its last stage, so not {last}{own}")
    return recipe.replace(keep=[*before, last])
