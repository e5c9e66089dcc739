"""`RecipeReader`: reads the fields of a recipe from YAML, with file and line in every error."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from tokensieve.algebra.budget import Keep
from tokensieve.composers.expression import Expression
from tokensieve.composers.formula import parse
from tokensieve.errors import (
    BudgetError,
    FormulaError,
    RecipeError,
    TokensieveError,
    UnknownStrategyError,
    did_you_mean,
    first_mistake,
    listing,
)
from tokensieve.plugins.plugin import broken, usable
from tokensieve.plugins.registry import Registry
from tokensieve.recipes import yaml_lines
from tokensieve.recipes.validation import (
    BUDGETS_EXAMPLE,
    error_class,
    find_order_problem,
    find_problem,
    read_budget_list,
    unusable_name_message,
)
from tokensieve.sites import Site
from tokensieve.stage import Stage
from tokensieve.strategy import Strategy

_STAGE_KEYS = [key for field in Stage.model_fields for key in ((field, "r") if field == "keep" else (field,))]
"""The keys of a stage: its fields, and `r`, which stands in place of `keep`."""


class RecipeReader:
    """Reads the fields of a recipe from a YAML document. Every error ends in file and line.

    Args:
        document: the document.
        registry: where strategies and composers are looked up.
        source: the path of the document, for messages.
    """

    def __init__(self, document: yaml_lines.Document, registry: Registry, source: str) -> None:
        self._document = document
        self._registry = registry
        self._source = source

    def fields(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the fields of the recipe, with `strategies`, `stages` and `budgets` as objects.

        Args:
            keys: the keys that a recipe may have.

        Raises:
            RecipeError: or another `TokensieveError`, if anything is wrong.
        """
        data = self._mapping(self._document.data, (), "recipe", keys, required=("stages",))
        operands = self._operands(data.get("strategies"))
        entries = data["stages"]
        if not isinstance(entries, list) or not entries:
            raise self.error(RecipeError, "stages is a list with at least one stage", ("stages",))
        expanded: list[tuple[int, Stage]] = []
        for i, entry in enumerate(entries):
            last = expanded[-1][1].at if expanded else None
            expanded += [(i, stage) for stage in self._stages(entry, i, operands, last)]
        stages = tuple(stage for _, stage in expanded)
        budgets = self._budgets(data.get("budgets"))
        problem = find_problem(operands, stages, budgets)
        if problem is not None:
            path, said = problem
            if path[0] == "stages" and len(path) > 1:
                # A range of sites is several stages, but one entry of the file.
                path = ("stages", expanded[int(path[1])][0], *path[2:])
            raise self.error(RecipeError, said, path)
        return {**data, "strategies": operands, "stages": stages, "budgets": budgets}

    def error(self, kind: type[TokensieveError], message: str, path: yaml_lines.Path) -> TokensieveError:
        """Return an error whose message ends in the file and line of `path`."""
        return kind(f"{message[:1800]}  ({self._source}:{self._document.line(tuple(path))})")

    def _operands(self, data: object) -> dict[str, Strategy]:
        if data is None:
            return {}
        if not isinstance(data, dict):
            raise self.error(RecipeError, "strategies is a mapping from names to {use: ...}", ("strategies",))
        operands = {}
        for name, entry in data.items():
            path = ("strategies", name)
            if not usable(name):
                raise self.error(RecipeError, unusable_name_message(name), path)
            if name in self._registry.composers:
                raise self.error(RecipeError, f"'{name}' is a composer; name the operand otherwise", path)
            settings = {"use": entry} if isinstance(entry, str) else entry
            if not isinstance(settings, dict) or not isinstance(settings.get("use"), str):
                raise self.error(RecipeError, f"'{name}' says which strategy it uses: {{use: gsp}}", (*path, "use"))
            operands[name] = self._strategy(settings, path)
        return operands

    def _budgets(self, data: object) -> dict[int, tuple[Keep, ...]]:
        if data is None:
            return {}
        if not isinstance(data, dict):
            raise self.error(RecipeError, f"budgets is a mapping from counts to lists: {BUDGETS_EXAMPLE}", ("budgets",))
        budgets = {}
        for number, entry in data.items():
            try:
                budgets[number] = read_budget_list(number, entry)
            except BudgetError as error:
                raise self.error(type(error), str(error), ("budgets", number)) from None
        return budgets

    def _strategy(self, settings: dict[str, Any], path: yaml_lines.Path) -> Strategy:
        try:
            strategy = self._registry.strategy(settings["use"])
        except UnknownStrategyError as error:
            raise self.error(type(error), str(error), (*path, "use")) from None
        given = {key: value for key, value in settings.items() if key != "use"}
        try:
            # As JSON, because YAML also has lists in place of tuples and strings in place of enumerations.
            return strategy.model_validate_json(json.dumps(given))
        except ValidationError as error:
            detail = error.errors()[0]
            at = (*path, *detail["loc"])
            if detail["type"] == "extra_forbidden" and len(detail["loc"]) == 1:
                fields = list(strategy.model_fields)
                key = str(detail["loc"][0])
                message = (
                    f"'{strategy.name}' has no parameter '{key}'; it has {listing(fields)}.{did_you_mean(key, fields)}"
                )
                raise self.error(RecipeError, message, at) from None
            raise self.error(RecipeError, f"{strategy.name}: {first_mistake(error)}", at) from None

    def _stages(self, entry: object, index: int, operands: dict[str, Strategy], last: Site | None) -> tuple[Stage, ...]:
        """Return the stages of an entry, which may be a range of sites, after the site `last`."""
        path: yaml_lines.Path = ("stages", index)
        budget = "r" if isinstance(entry, dict) and entry.get("r") is not None else "keep"
        data = dict(self._mapping(entry, path, "stage", _STAGE_KEYS, required=("at", "select", budget)))
        for key in ("select", "by"):
            if data.get(key) is None:
                continue
            if not isinstance(data[key], str):
                raise self.error(RecipeError, f"{key} is a formula, such as gsp & qcsp", (*path, key))
            try:
                data[key] = read_formula(data[key], self._registry, operands)
            except TokensieveError as error:
                raise self.error(type(error), str(error), (*path, key)) from None
        try:
            first, _ = Site.ends(data["at"])
        except RecipeError as error:
            raise self.error(RecipeError, str(error), (*path, "at")) from None
        # Before the range is expanded: ranges in order are never more stages than there are sites.
        problem = None if last is None else find_order_problem(last, first)
        if problem is not None:
            raise self.error(RecipeError, problem, (*path, "at"))
        try:
            return Stage.each(**data)
        except RecipeError as error:
            raise self.error(RecipeError, str(error), (*path, budget)) from None
        except ValidationError as error:
            at = error.errors()[0]["loc"][:1] or (budget,)
            raise self.error(error_class(error), first_mistake(error), (*path, *at)) from None

    def _mapping(
        self, data: object, path: yaml_lines.Path, what: str, keys: Sequence[str], required: tuple[str, ...]
    ) -> dict[str, Any]:
        if not isinstance(data, dict):
            raise self.error(RecipeError, f"a {what} is a mapping with the keys {', '.join(keys)}", path)
        for key in data:
            if key not in keys:
                message = f"a {what} has no key '{key}'; it has {', '.join(keys)}.{did_you_mean(key, keys)}"
                raise self.error(RecipeError, message, (*path, key))
        for key in required:
            if data.get(key) is None:
                raise self.error(RecipeError, f"a {what} needs '{key}'", (*path, key))
        return data


def read_formula(text: str, registry: Registry, operands: Mapping[str, Strategy]) -> Expression:
    """Read a formula whose words are operands of a recipe, or strategies with their defaults.

    Raises:
        FormulaError: if it cannot be read.
        UnknownStrategyError: if a word is no strategy.
    """
    return parse(text, lambda name: _resolve(name, registry, operands), registry.composers, registry.foreign_composer)


def _resolve(name: str, registry: Registry, operands: Mapping[str, Strategy]) -> Strategy:
    if name in operands:
        return operands[name]
    if name in registry.strategies:
        strategy = registry.strategy(name)
        try:
            return strategy()
        except ValidationError as error:
            raise FormulaError(
                f"'{name}' has no default for every parameter ({first_mistake(error)}); "
                f"set it under strategies: {{use: {name}, ...}}"
            ) from None
    if name in registry.recipes:
        raise FormulaError(f"'{name}' is a recipe, which is no operand: write the formula of its stage instead")
    if operands:
        known = {*operands, *registry.strategies}
        raise FormulaError(
            f"the formula uses '{name}', which is neither under strategies: ({listing(operands)}) nor a "
            f"registered strategy ({listing(registry.strategies)}).{did_you_mean(name, known)}"
            f"{broken(registry.plugins)}"
        )
    return registry.strategy(name)()
