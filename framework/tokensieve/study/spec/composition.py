"""Compositions and their operands: which recipe of a study has an operand of another one alone."""

from __future__ import annotations

from tokensieve.composers.expression import Expression
from tokensieve.recipes.recipe import Recipe
from tokensieve.strategy import Strategy

Operand = tuple[str, Expression]
"""A site, and the strategy that selects there."""


def alone(recipe: Recipe) -> Operand | None:
    """Return the operand that a recipe has alone, or none if it is a composition or has several stages."""
    [first, *others] = recipe.stages
    return None if others or first.select.parts else (str(first.at), _unseeded(first.select))


def operands_of(recipe: Recipe) -> dict[Expression, Operand]:
    """Return the operands of a composition of one stage, by its strategies; nothing for other recipes."""
    [first, *others] = recipe.stages
    leaves = first.select.strategies() if first.select.parts and not others else ()
    return {leaf: (str(first.at), _unseeded(leaf)) for leaf in leaves}


def _unseeded(leaf: Expression) -> Expression:
    """Return a strategy with one seed for all: what draws at random runs with every seed of a study."""
    if isinstance(leaf, Strategy) and "seed" in type(leaf).model_fields:
        return leaf.model_copy(update={"seed": 0})
    return leaf
