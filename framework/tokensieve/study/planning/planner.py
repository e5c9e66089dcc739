"""The cells of one model: its methods and their controls."""

from __future__ import annotations

from collections.abc import Iterator
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
from tokensieve.study.spec.entries import MethodEntry
from tokensieve.study.spec.study import Study


@dataclass(frozen=True)
class PlannedCell:
    """A cell of one model, before it is known of which task."""

    role: str
    method: str
    of: str | None = None
    keep: Budget | None = None
    seed: int | None = None
    recipe: Recipe | None = None
    shape: str | None = None


@dataclass(eq=False)
class ModelPlan:
    """What is planned for one model."""

    entries: list[PlannedCell] = field(default_factory=list)
    skipped: list[SkippedControl] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class ModelPlanner:
    """Plans the cells of one model."""

    def __init__(self, study: Study, registry: Registry, opened: OpenedModel) -> None:
        self._study = study
        self._registry = registry
        self._opened = opened
        self._keep = study.keep if opened.model.keep is None else opened.model.keep
        self._done = ModelPlan()
        self._shapes: dict[tuple[Any, ...], tuple[Recipe, Budget]] = {}

    def planned(self, needed: bool) -> ModelPlan:
        """Return what is planned; `needed` says whether any task knows which tokens an answer needs."""
        done = self._done
        done.entries += [PlannedCell("unpruned", "unpruned"), PlannedCell("text_only", "text_only")]
        cuts = list(self._cuts())
        plain = [budget for budget in self._keep if len(budget.keeps) == 1]
        everywhere = self._study.controls.at_every_site
        for budget in plain:
            # Any choice will do: only where and how much is taken from it.
            start = Recipe.of(Needed(), budget.keeps[0])
            self._shapes.setdefault(cut_shape(start), (start, budget))
        for method, budget, cut in cuts:
            if any(stage.keep.auto for stage in cut.stages):
                said = "the method keeps a set of its own size, so no control costs the same"
                self._skip("random", method.name, budget, said)
            elif everywhere:
                self._shapes.setdefault(cut_shape(cut), (cut, budget))
        for where, (pattern, budget) in self._shapes.items():
            self._controls(pattern, budget, where, needed)
        done.entries += [
            PlannedCell("downsampled", "downsampled", keep=b, shape=content_hash(cut_shape(stand_in(b)))) for b in plain
        ]
        for method, budget, cut in cuts:
            self._method(method, budget, cut)
        return done

    def _cuts(self) -> Iterator[tuple[MethodEntry, Budget, Recipe]]:
        """Return every method at every budget, reviewed.

        Raises:
            StudyError: for a recipe that cannot run on the model.
        """
        for number, method in enumerate(self._study.recipes):
            if method.models is not None and self._opened.model.name not in method.models:
                continue
            place = self._study.location("recipes", number)
            for budget in method.keep if method.keep is not None else self._keep:
                try:
                    cut = with_budget(method.recipe, budget)
                except TokensieveError as error:
                    raise StudyError(f"{error}{place}") from None
                for finding in review(cut, self._opened.adapter):
                    if finding.level == "error":
                        raise StudyError(
                            f"recipe '{method.name}' cannot run on model '{self._opened.model.name}' at keep {budget}: "
                            f"{finding}{place}"
                        )
                    if finding.level == "warning":
                        self._done.notes.append(f"recipe '{method.name}': {finding}")
                yield method, budget, cut

    def _method(self, method: MethodEntry, budget: Budget, cut: Recipe) -> None:
        where = content_hash(cut_shape(cut))
        controls = {
            entry.recipe.hash() for entry in self._done.entries if entry.role in RECIPE_CONTROLS and entry.recipe
        }
        if all(drawn.hash() in controls for _, drawn in self._drawn(cut)):
            self._done.notes.append(f"recipe '{method.name}' is a control at keep {budget}; it runs once, as that")
            return
        self._add("method", method.name, None, budget, cut, where)
        asked = self._study.controls.inverted
        if asked is not None and budget not in asked:
            return
        try:
            turned = inverted_recipe(cut)
        except TokensieveError as error:
            self._skip("inverted", method.name, budget, str(error))
            return
        if self._fits("inverted", method.name, budget, turned):
            self._add("inverted", f"inverted {method.name}", method.name, budget, turned, where)

    def _controls(self, pattern: Recipe, budget: Budget, where: tuple[Any, ...], needed: bool) -> None:
        """Add the controls of one shape."""
        at = _label(pattern)
        for role in RECIPE_CONTROLS:
            name = f"{role}{at}"
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
            if self._fits(role, None, budget, recipe):
                self._add(role, name, None, budget, recipe, content_hash(where))
        if needed:
            for role, first_kept in (("oracle", True), ("anti_oracle", False)):
                recipe = control_like(pattern, Needed(first=first_kept), f"{role}{at}")
                self._add(role, f"{role}{at}", None, budget, recipe, content_hash(where))

    def _add(self, role: str, name: str, of: str | None, budget: Budget, recipe: Recipe, where: str) -> None:
        """Add a cell, or one for every seed where the recipe draws."""
        several = [(None, recipe)] if role.endswith("oracle") else self._drawn(recipe)
        self._done.entries += [PlannedCell(role, name, of, budget, seed, drawn, where) for seed, drawn in several]

    def _drawn(self, recipe: Recipe) -> list[tuple[int | None, Recipe]]:
        """Return a recipe, or one for every seed where it draws."""
        if not draws_at_random(recipe):
            return [(None, recipe)]
        return [(seed, with_seed(recipe, seed)) for seed in self._study.seeds]

    def _fits(self, role: str, of: str | None, budget: Budget, recipe: Recipe) -> bool:
        """Return whether a control can run on the model, and note why not."""
        for finding in review(recipe, self._opened.adapter):
            if finding.level == "error":
                self._skip(role, of, budget, str(finding))
                return False
        return True

    def _skip(self, role: str, of: str | None, budget: Budget, reason: str) -> None:
        self._done.skipped.append(SkippedControl(self._opened.model.name, role, of, str(budget), reason))


def stand_in(budget: Budget) -> Recipe:
    """Return the recipe of the plain controls at a budget: one cut at `decoder.0`."""
    return Recipe.of(Needed(), budget.keeps[0])


def _label(pattern: Recipe) -> str:
    """Say where a control cuts, unless that is where controls usually do."""
    sites = " + ".join(at for at, _ in pattern.ranges())
    said = [] if sites == "decoder.0" else [f"at {sites}"]
    said += [f"per {stage.per}" for stage in pattern.stages[:1] if stage.per != "image"]
    said += [f"newlines {stage.newlines}" for stage in pattern.stages[:1] if stage.newlines != "judge"]
    said += [] if pattern.positions == "original" else [pattern.positions]
    return "".join(f" {one}" for one in said)
