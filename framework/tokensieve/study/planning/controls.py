"""The recipes of controls: what every method must beat at the same cost, and what bounds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import PrivateAttr
from torch import Tensor

from tokensieve.algebra.universe import draw
from tokensieve.composers.expression import Composer, Expression
from tokensieve.errors import TokensieveError
from tokensieve.evidence import Evidence, Tokens
from tokensieve.plugins.registry import Registry
from tokensieve.recipes import yaml_lines
from tokensieve.recipes.recipe import Recipe
from tokensieve.stage import Stage
from tokensieve.strategy import Scorer, Strategy
from tokensieve.study.rows import Cell

RECIPE_CONTROLS = ("random", "uniform", "pool")
"""Controls that are shipped recipes with these names."""


class Needed(Scorer):
    """Keeps the tokens that an answer needs first, or last; all others are ordered at random.

    It is given these tokens, so it is a bound for methods, which have to guess them.

    Attributes:
        first: whether needed tokens are kept first; otherwise they are kept last.
        seed: the seed of the random order of the other tokens.
    """

    name = "needed"
    examples = ({}, {"first": False})

    first: bool = True
    seed: int = 0

    _needed: Mapping[int, frozenset[int]] = PrivateAttr(default_factory=dict)

    def with_needed(self, needed: Mapping[int, frozenset[int]]) -> Needed:
        """Return a copy with the needed tokens, by sample key."""
        copy = self.model_copy()
        copy._needed = dict(needed)
        return copy

    @property
    def needs(self) -> frozenset[Evidence]:
        """Return nothing: the needed tokens are given."""
        return frozenset()

    def score(self, tokens: Tokens) -> Tensor:
        """Return scores in [0, 1), plus one for needed tokens, or minus one if they are kept last."""
        scores = draw(self.seed, tokens.keys, tokens.ids)
        for row, key in enumerate(tokens.keys.tolist()):
            ids = torch.tensor(sorted(self._needed.get(key, ())), dtype=torch.int64, device=scores.device)
            scores[row] += torch.isin(tokens.ids[row], ids).to(scores.dtype) * (1.0 if self.first else -1.0)
        return scores


def control_like(recipe: Recipe, select: Expression, name: str, rest: str = "drop") -> Recipe:
    """Return a recipe with the sites and budgets of another, and with another formula."""
    changes = {"select": select, "by": None, "rest": rest}
    stages = tuple(stage.model_copy(update=changes) for stage in recipe.stages)
    return Recipe(name=name, positions=recipe.positions, stages=stages)


def cut_shape(recipe: Recipe) -> tuple[Any, ...]:
    """Return sites, budgets, groups and positions: recipes that share these cost the same."""
    return recipe.positions, *(
        (str(stage.at), str(stage.keep), stage.per, stage.newlines)
        + (() if stage.demand is None else (stage.over, repr(stage.demand)))
        for stage in recipe.stages
    )


def inverted_recipe(recipe: Recipe) -> Recipe:
    """Return a recipe that keeps the worst tokens instead of the best.

    Raises:
        TokensieveError: if a stage keeps a set of its own size or chooses a set for a budget, which has no order.
    """

    def invert(stage: Stage) -> Stage:
        if stage.keep.auto:
            raise TokensieveError(f"the stage at {stage.at} keeps a set of its own size, which has no worst part")
        by = None if stage.by is None else ~stage.by
        return stage.model_copy(update={"select": ~stage.select, "by": by})

    return recipe.replace(stages=tuple(invert(stage) for stage in recipe.stages))


def draws_at_random(recipe: Recipe) -> bool:
    """Return whether any strategy of a recipe has a seed, so that it draws at random."""
    return any("seed" in type(leaf).model_fields for leaf in recipe.names() if isinstance(leaf, Strategy))


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    """Return a recipe whose strategies have another seed."""

    def changed(part: Expression) -> Expression:
        if isinstance(part, Strategy):
            return part.model_copy(update={"seed": seed}) if "seed" in type(part).model_fields else part
        if isinstance(part, Composer):
            return part.model_copy(update={"operands": tuple(changed(operand) for operand in part.operands)})
        return part

    def stage_of(stage: Stage) -> Stage:
        by = None if stage.by is None else changed(stage.by)
        demand = None if stage.demand is None else changed(stage.demand)
        return stage.model_copy(update={"select": changed(stage.select), "by": by, "demand": demand})

    stages = tuple(stage_of(stage) for stage in recipe.stages)
    named = {name: changed(leaf) for name, leaf in recipe.strategies.items()}
    known = {name: leaf for name, leaf in named.items() if isinstance(leaf, Strategy)}
    return Recipe(
        name=recipe.name,
        title=recipe.title,
        paper=recipe.paper,
        positions=recipe.positions,
        strategies=known,
        stages=stages,
    )


def with_needed_tokens(recipe: Recipe, needed: Mapping[int, frozenset[int]]) -> Recipe:
    """Return a recipe whose `Needed` strategies have the needed tokens, by sample key."""
    stages = tuple(
        stage.model_copy(update={"select": stage.select.with_needed(needed)})
        if isinstance(stage.select, Needed)
        else stage
        for stage in recipe.stages
    )
    return Recipe(name=recipe.name, positions=recipe.positions, stages=stages)


def recipe_of_cell(cell: Cell, registry: Registry) -> Recipe | None:
    """Return the recipe of a cell, or none.

    Oracles use the strategy `Needed`. No plugin registers it, because it is no method.
    """
    if cell.recipe is None:
        return None
    if cell.role.endswith("oracle"):
        known, registry = registry, Registry()
        registry.add_strategy(Needed)
        for name in _demands(cell.recipe):
            registry.add_strategy(known.strategy(name))
    return Recipe.loads(yaml_lines.write(cell.recipe), registry, source=f"cell {cell.key}")


def _demands(recipe: Mapping[str, Any]) -> set[str]:
    """Return the strategies by whose demands pictures share a budget, of a recipe as plain data."""
    named = recipe.get("strategies") or {}
    asked = [stage["demand"] for stage in recipe["stages"] if "demand" in stage]
    return {named[name]["use"] if name in named else name for name in asked}
