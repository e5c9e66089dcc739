"""The cells of one model: its methods and their controls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokensieve.errors import StudyError, TokensieveError
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe
from tokensieve.recipes.review import review
from tokensieve.study.planning.budgets import with_budget
from tokensieve.study.planning.controls import (
    RECIPE_CONTROLS,
    Needed,
    control_like,
    cut_shape,
    draws_at_random,
    inverted_recipe,
    with_seed,
)
from tokensieve.study.planning.hashing import content_hash
from tokensieve.study.planning.jobs import SkippedControl
from tokensieve.study.planning.models import OpenedModel
from tokensieve.study.spec.budget import Budget
from tokensieve.study.spec.composition import alone, operands_of
from tokensieve.study.spec.entries import MethodEntry
from tokensieve.study.spec.study import Study


@dataclass(frozen=True)
class PlannedCell:
    """A cell of one model, without a task.

    Attributes:
        role: `method`, or the kind of control.
        method: the name of the recipe or control in reports.
        of: the method that an inverted control belongs to, or none.
        keep: the budget, or none.
        seed: the seed, if the recipe draws at random.
        recipe: the recipe, or none.
        shape: the hash of where the recipe cuts and to how many tokens, or none.
    """

    role: str
    method: str
    of: str | None = None
    keep: Budget | None = None
    seed: int | None = None
    recipe: Recipe | None = None
    shape: str | None = None


@dataclass(eq=False)
class ModelPlan:
    """The cells of one model, the controls that do not apply, and notes."""

    cells: list[PlannedCell] = field(default_factory=list)
    skipped: list[SkippedControl] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class ModelPlanner:
    """Plans the cells of one model."""

    def __init__(self, study: Study, registry: Registry, opened: OpenedModel) -> None:
        self._study = study
        self._registry = registry
        self._opened = opened
        self._keep = study.keep if opened.model.keep is None else opened.model.keep
        self._plan = ModelPlan()
        self._shapes: dict[tuple[Any, ...], tuple[Recipe, Budget]] = {}

    def plan(self, needed: bool) -> ModelPlan:
        """Return the plan of the model.

        Args:
            needed: whether any task knows the tokens that an answer needs, so that there are oracles.

        Raises:
            StudyError: if a recipe cannot run on the model.
        """
        plan = self._plan
        plan.cells += [PlannedCell("unpruned", "unpruned"), PlannedCell("text_only", "text_only")]
        methods = list(self._methods_at_budgets())
        single = [budget for budget in self._keep if len(budget.keeps) == 1]
        at_every_site = self._study.controls.at_every_site
        for budget in single:
            # Only the site and the budget of this recipe are used, not its strategy.
            start = _placeholder(budget)
            self._shapes.setdefault(cut_shape(start), (start, budget))
        for method, budget, recipe in methods:
            if any(stage.keep.auto for stage in recipe.stages):
                reason = "the method keeps a set of its own size, so no control costs the same"
                self._skip("random", method.name, budget, reason)
            elif at_every_site:
                self._shapes.setdefault(cut_shape(recipe), (recipe, budget))
        for shape, (pattern, budget) in self._shapes.items():
            self._add_controls(pattern, budget, content_hash(shape), needed)
        plan.cells += [
            PlannedCell("downsampled", "downsampled", keep=b, shape=content_hash(cut_shape(_placeholder(b))))
            for b in single
        ]
        for method, budget, recipe in methods:
            self._add_method(method, budget, recipe)
        plan.notes += self._operands_lacking({method.name: recipe for method, _, recipe in methods})
        return plan

    def _operands_lacking(self, methods: Mapping[str, Recipe]) -> Iterator[str]:
        """Yield a note for every composition with operands that nothing in the study has alone at its site."""
        controls = [cell.recipe for cell in self._plan.cells if cell.role in RECIPE_CONTROLS and cell.recipe]
        lone = {alone(recipe) for recipe in (*methods.values(), *controls)}
        for name, recipe in methods.items():
            lacking = [recipe.formula(leaf) for leaf, operand in operands_of(recipe).items() if operand not in lone]
            if lacking:
                yield (
                    f"recipe '{name}': no recipe of the study has {' or '.join(lacking)} alone at "
                    f"{recipe.stages[0].at}, so the report cannot say whether the composition beats each of its "
                    "operands; add what is lacking"
                )

    def _methods_at_budgets(self) -> Iterator[tuple[MethodEntry, Budget, Recipe]]:
        """Yield every method at every budget with its recipe, after a review.

        Raises:
            StudyError: if a recipe cannot run on the model.
        """
        for index, method in enumerate(self._study.recipes):
            if method.models is not None and self._opened.model.name not in method.models:
                continue
            location = self._study.location("recipes", index)
            for budget in method.keep if method.keep is not None else self._keep:
                try:
                    recipe = with_budget(method.recipe, budget)
                except TokensieveError as error:
                    raise StudyError(f"{error}{location}") from None
                for finding in review(recipe, self._opened.adapter):
                    if finding.level == "error":
                        raise StudyError(
                            f"recipe '{method.name}' cannot run on model '{self._opened.model.name}' at keep {budget}: "
                            f"{finding}{'' if finding.place else location}"
                        )
                    if finding.level == "warning":
                        self._plan.notes.append(f"recipe '{method.name}': {finding}")
                yield method, budget, recipe

    def _add_method(self, method: MethodEntry, budget: Budget, recipe: Recipe) -> None:
        """Add the cells of a method at a budget, and of its inverted scores."""
        shape = content_hash(cut_shape(recipe))
        controls = {cell.recipe.hash() for cell in self._plan.cells if cell.role in RECIPE_CONTROLS and cell.recipe}
        if all(seeded.hash() in controls for _, seeded in self._by_seed(recipe)):
            self._plan.notes.append(
                f"recipe '{method.name}' is a control at keep {budget}; it runs once, as that control"
            )
            return
        self._add("method", method.name, None, budget, recipe, shape)
        budgets = self._study.controls.inverted
        if budgets is not None and budget not in budgets:
            return
        try:
            inverted = inverted_recipe(recipe)
        except TokensieveError as error:
            self._skip("inverted", method.name, budget, str(error))
            return
        if self._can_run("inverted", method.name, budget, inverted):
            self._add("inverted", f"inverted {method.name}", method.name, budget, inverted, shape)

    def _add_controls(self, pattern: Recipe, budget: Budget, shape: str, needed: bool) -> None:
        """Add the controls that cut where a recipe does."""
        suffix = _site_suffix(pattern)
        for role in RECIPE_CONTROLS:
            name = f"{role}{suffix}"
            try:
                shipped = Recipe.load(role, self._registry)
            except TokensieveError as error:
                self._skip(role, None, budget, str(error))
                continue
            first = shipped.stages[0]
            try:
                recipe = control_like(pattern, first.select, name, first.rest)
            except TokensieveError as error:
                self._skip(role, None, budget, str(error))
                continue
            if self._can_run(role, None, budget, recipe):
                self._add(role, name, None, budget, recipe, shape)
        if needed:
            for role, first_kept in (("oracle", True), ("anti_oracle", False)):
                recipe = control_like(pattern, Needed(first=first_kept), f"{role}{suffix}")
                self._add(role, f"{role}{suffix}", None, budget, recipe, shape)

    def _add(self, role: str, name: str, of: str | None, budget: Budget, recipe: Recipe, shape: str) -> None:
        """Add a cell, or one for each seed if the recipe draws at random."""
        seeded = [(None, recipe)] if role.endswith("oracle") else self._by_seed(recipe)
        self._plan.cells += [PlannedCell(role, name, of, budget, seed, one, shape) for seed, one in seeded]

    def _by_seed(self, recipe: Recipe) -> list[tuple[int | None, Recipe]]:
        """Return a recipe, or one for each seed if it draws at random."""
        if not draws_at_random(recipe):
            return [(None, recipe)]
        return [(seed, with_seed(recipe, seed)) for seed in self._study.seeds]

    def _can_run(self, role: str, of: str | None, budget: Budget, recipe: Recipe) -> bool:
        """Return whether a control can run on the model; if not, record the reason."""
        for finding in review(recipe, self._opened.adapter):
            if finding.level == "error":
                self._skip(role, of, budget, str(finding))
                return False
        return True

    def _skip(self, role: str, of: str | None, budget: Budget, reason: str) -> None:
        self._plan.skipped.append(SkippedControl(self._opened.model.name, role, of, str(budget), reason))


def _placeholder(budget: Budget) -> Recipe:
    """Return a recipe that cuts at `decoder.0` to a budget."""
    return Recipe.of(Needed(), budget.keeps[0])


def _site_suffix(pattern: Recipe) -> str:
    """Return where a control cuts, for its name; empty for `decoder.0` and the defaults of a stage."""
    sites = " + ".join(at for at, _ in pattern.ranges())
    parts = [] if sites == "decoder.0" else [f"at {sites}"]
    parts += [f"per {stage.per}" for stage in pattern.stages[:1] if stage.per != "image"]
    parts += [
        f"shared over a {stage.over} by {getattr(stage.demand, 'name', 'it')}"
        for stage in pattern.stages[:1]
        if stage.demand is not None
    ]
    parts += [f"newlines {stage.newlines}" for stage in pattern.stages[:1] if stage.newlines != "judge"]
    parts += [] if pattern.positions == "original" else [pattern.positions]
    return "".join(f" {part}" for part in parts)
