"""The structure of methods: formulas, operands, and whether they use attention."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tokensieve.composers.expression import Expression, Intersection
from tokensieve.errors import TokensieveError
from tokensieve.evidence import ATTENTION
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe
from tokensieve.strategy import Strategy
from tokensieve.study.analysis.comparison import CONTROL_ROLES, Comparison
from tokensieve.study.spec.composition import Operand, alone, operands_of


@dataclass(frozen=True)
class MethodStructure:
    """The structure of a method.

    Attributes:
        formula: the formula of its first stage.
        attention: whether any stage uses attention.
        operands: the names of methods and controls of the study that have one operand alone, at the same site.
        unmatched: the operands that none of them has alone.
        intersects: whether it is an intersection.
    """

    formula: str
    attention: bool
    operands: tuple[str, ...]
    unmatched: tuple[str, ...]
    intersects: bool


def method_structures(comparison: Comparison, registry: Registry) -> dict[str, MethodStructure]:
    """Return the structure of each method whose recipe can be read."""
    methods = _recipes_of(comparison, ("method",), registry)
    known = {**_recipes_of(comparison, CONTROL_ROLES, registry), **methods}
    # Of several with the same operand the first method, and a control where no method has it.
    names = [*reversed([name for name in known if name not in methods]), *reversed(methods)]
    lone = {operand: name for name in names if (operand := alone(known[name])) is not None}
    return {name: _structure_of(name, recipe, lone) for name, recipe in methods.items()}


def _recipes_of(comparison: Comparison, roles: Collection[str], registry: Registry) -> dict[str, Recipe]:
    """Return the recipes of all arms with one of the roles, by the name of the method."""
    recipes: dict[str, Recipe] = {}
    for arm in comparison.arms:
        recipe = arm.cells[0].cell.recipe
        if arm.role in roles and recipe is not None and arm.method not in recipes:
            read = _read_recipe(recipe, registry)
            if read is not None:
                recipes[arm.method] = read
    return recipes


def _read_recipe(recipe: Mapping[str, Any], registry: Registry) -> Recipe | None:
    try:
        # YAML reads JSON.
        return Recipe.loads(json.dumps(recipe), registry, str(recipe.get("name", "recipe")))
    except TokensieveError:
        # A plugin is not installed or has changed: the numbers are valid, but the structure is not known.
        return None


def _structure_of(name: str, recipe: Recipe, lone: Mapping[Operand, str]) -> MethodStructure:
    first = recipe.stages[0]
    known = {leaf: lone.get(operand) for leaf, operand in operands_of(recipe).items()}
    return MethodStructure(
        formula=_formula_with_names(recipe, first.select),
        attention=any(stage.needs & ATTENTION for stage in recipe.stages),
        operands=tuple(method for method in known.values() if method is not None and method != name),
        unmatched=tuple(_formula_with_names(recipe, leaf) for leaf, method in known.items() if method is None),
        intersects=isinstance(first.select, Intersection),
    )


def _formula_with_names(recipe: Recipe, expression: Expression) -> str:
    """Return a formula with the strategies' own names, or with the recipe's names if two strategies have the same."""
    names = [leaf.name for leaf in recipe.names() if isinstance(leaf, Strategy)]
    if len(set(names)) < len(recipe.names()):
        return recipe.formula(expression)
    return expression.written(lambda leaf: leaf.name if isinstance(leaf, Strategy) else recipe.formula(leaf))
