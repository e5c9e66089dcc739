"""The recipe that a caller meant, in any of the forms in which one may be given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from torch.nn import Module

from tokensieve.composers.expression import Expression
from tokensieve.errors import RecipeError, brief
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe

GivenRecipe = Recipe | Expression | str | Path


def meant(
    given: GivenRecipe,
    keep: object,
    registry: Registry,
    positions: Literal["original", "compact"] | None = None,
    settings: Sequence[str] = (),
) -> Recipe:
    """Return the recipe that was meant.

    Args:
        given: a recipe, the name of a shipped one, a path to YAML, or a formula, as text or as an expression.
        keep: the budget; needed for a formula, and an override otherwise.
        registry: where names are looked up.
        positions: an override of the recipe's.
        settings: changes of what is given as text, as `Recipe.load` takes them.

    Raises:
        RecipeError: if it is none of these, or a formula has no budget; and other kinds of TokensieveError.
    """
    if settings and not isinstance(given, (str, Path)):
        raise RecipeError(f"settings change a recipe that is given as text, not {brief(given)}; replace() changes one")
    if isinstance(given, Expression):
        if keep is None:
            raise RecipeError("a bare expression needs a budget: prune(model, expression, keep=64)")
        return Recipe.of(given, keep, positions=positions or "original")
    if isinstance(given, (str, Path)):
        given, keep = Recipe.load(given, registry, keep=keep, settings=settings), None
    if isinstance(given, type) and issubclass(given, Expression):
        raise RecipeError(f"{given.__name__} is a class, and a recipe has instances; write {given.__name__}()")
    if isinstance(given, Module):
        raise RecipeError(f"{type(given).__name__} is a model where a recipe is wanted; the model comes first")
    if not isinstance(given, Recipe):
        raise RecipeError(
            f"{brief(given)} is no recipe; pass a Recipe, the name of a shipped one, a path, or a formula with keep=. "
            "The model comes first: prune(model, recipe)"
        )
    if keep is not None:
        given = given.replace(keep=keep)
    return given if positions is None else given.replace(positions=positions)
