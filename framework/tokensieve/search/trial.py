"""What a search tries: a recipe at a budget, and what became of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from tokensieve.errors import StudyError, TokensieveError
from tokensieve.plugins.registry import Registry
from tokensieve.recipes import yaml_lines
from tokensieve.recipes.recipe import Recipe
from tokensieve.study.planning.budgets import with_budget
from tokensieve.study.spec.budget import Budget

State = Literal["measured", "refused", "failed", "same"]


@dataclass(frozen=True)
class Candidate:
    """A recipe at a budget of the study.

    Attributes:
        recipe: the recipe with the budget.
        budget: the budget as the study names it.
        base: the recipe as it was given, before it had the budget; none where it is not known.
    """

    recipe: Recipe
    budget: Budget
    base: Recipe | None = field(default=None, compare=False)

    @classmethod
    def of(cls, recipe: Recipe, budget: Budget) -> Candidate:
        """Return a recipe at a budget.

        Raises:
            TokensieveError: if the recipe cannot have it.
        """
        return cls(with_budget(recipe, budget), budget, recipe)

    @property
    def hash(self) -> str:
        """Return the recipe's hash: two candidates with the same one are the same trial."""
        return self.recipe.hash()

    @property
    def formula(self) -> str:
        """Return the formulas with their sites, as text."""
        return "; ".join(f"{at}: {self.recipe.formula(stage.select)}" for at, stage in self.recipe.ranges())


@dataclass(frozen=True)
class Measured:
    """What a candidate has on one part of the pictures.

    Attributes:
        accuracy: the mean of the tasks' metrics over models and tasks, in [0, 1].
        cost: the share of the unpruned model's tokens, FLOPs or milliseconds.
    """

    accuracy: float
    cost: float


@dataclass(frozen=True)
class Trial:
    """A trial with its outcome.

    Attributes:
        name: `trial N`, or the name of a recipe that was given.
        state: measured; refused before it ran; failed while it ran; or the same recipe as an earlier trial.
        candidate: what was tried; none if no recipe could be made.
        measured: accuracy and cost; none unless it was measured.
        reason: why it was refused or failed, or the trial that it is the same as.
    """

    name: str
    state: State
    candidate: Candidate | None = None
    measured: Measured | None = None
    reason: str = ""

    def to_line(self) -> str:
        """Return the trial as a line of JSON; `from_line` reads it back."""
        data: dict[str, Any] = {"name": self.name, "state": self.state}
        if self.candidate is not None:
            data["hash"] = self.candidate.hash
            data["budget"] = self.candidate.budget.to_data()
            data["recipe"] = self.candidate.recipe.to_dict()
        if self.measured is not None:
            data |= {"accuracy": self.measured.accuracy, "cost": self.measured.cost}
        return json.dumps(data | ({"reason": self.reason} if self.reason else {}))

    @classmethod
    def from_line(cls, line: str, registry: Registry) -> Trial:
        """Read a line of JSON.

        Raises:
            StudyError: if the line is no trial, or its recipe cannot be read any more.
        """
        try:
            data = json.loads(line)
            candidate = measured = None
            if "recipe" in data:
                recipe = Recipe.loads(yaml_lines.write(data["recipe"]), registry, source=str(data["name"]))
                candidate = Candidate(recipe, Budget.of(data["budget"]))
            if "accuracy" in data:
                measured = Measured(float(data["accuracy"]), float(data["cost"]))
            return cls(data["name"], data["state"], candidate, measured, data.get("reason", ""))
        except (ValueError, KeyError, TypeError, TokensieveError) as error:
            raise StudyError(f"a line of trials.jsonl is no trial of a search: {error}") from None
