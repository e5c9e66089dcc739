"""`RecipeReader`: reads the fields of a recipe from YAML, with file and line in every error."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from tokensieve.algebra.budget import Keep
from tokensieve.composers.expression import Expression
from tokensieve.composers.formula import parse
from tokensieve.composers.settings import error_class, strategy_refusal
from tokensieve.errors import (
    BudgetError,
    FormulaError,
    RecipeError,
    SettingError,
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
        self._places: dict[Site, str] = {}

    @property
    def places(self) -> Mapping[Site, str]:
        """File and line of every stage, once `fields` has read them; the stages of a range have the same."""
        return self._places

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
            raise self.error(
                RecipeError, "stages is a list with at least one stage; each begins with a dash", ("stages",)
            )
        expanded: list[tuple[int, Stage]] = []
        for i, entry in enumerate(entries):
            last = expanded[-1][1].at if expanded else None
            expanded += [(i, stage) for stage in self._stages(entry, i, operands, last)]
        stages = tuple(stage for _, stage in expanded)
        self._places = {stage.at: self._place(("stages", i)) for i, stage in expanded}
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
        """Return an error whose message ends in the file and line of `path`, where there is a file."""
        place = self._place(path)
        return kind(message[:1800] + (f"  ({place})" if place else ""))

    def _place(self, path: yaml_lines.Path) -> str:
        return self._document.place(tuple(path), self._source)

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
            name = settings["use"]
            recipe = f" {_said_of_recipe(name, self._registry)}" if name in self._registry.recipes else ""
            composer = f" '{name}' is a composer, which a formula calls" if name in self._registry.composers else ""
            raise self.error(type(error), f"{error}{recipe}{composer}", (*path, "use")) from None
        given = {key: value for key, value in settings.items() if key != "use"}
        try:
            # As JSON, because YAML also has lists in place of tuples and strings in place of enumerations.
            return strategy.model_validate_json(json.dumps(given))
        except ValidationError as error:
            said = strategy_refusal(strategy.name, strategy.model_fields, error)
            raise self.error(RecipeError, said, (*path, *error.errors()[0]["loc"])) from None

    def _stages(self, entry: object, index: int, operands: dict[str, Strategy], last: Site | None) -> tuple[Stage, ...]:
        """Return the stages of an entry, which may be a range of sites, after the site `last`."""
        path: yaml_lines.Path = ("stages", index)
        budget = "r" if isinstance(entry, dict) and entry.get("r") is not None else "keep"
        data = dict(self._mapping(entry, path, "stage", _STAGE_KEYS, required=("at", "select", budget)))
        for key in ("select", "by", "demand"):
            if data.get(key) is None:
                continue
            if not isinstance(data[key], str):
                said = f"{key} is one formula as text, such as gsp & qcsp; settings go under strategies:"
                raise self.error(RecipeError, said, (*path, key))
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
            alone = " A formula alone stands behind `select:`." if isinstance(data, str) else ""
            raise self.error(RecipeError, f"a {what} is a mapping with the keys {', '.join(keys)}.{alone}", path)
        for key in data:
            if key not in keys:
                message = f"a {what} has no key '{key}'; it has {', '.join(keys)}.{_key_hint(key, keys, data)}"
                raise self.error(RecipeError, message, (*path, key))
        for key in required:
            if data.get(key) is None:
                empty = " (it is empty; a ~ that is not quoted is nothing in YAML)" if key in data else ""
                raise self.error(RecipeError, f"a {what} needs '{key}'{empty}", (*path, key))
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
        except SettingError as error:
            raise FormulaError(
                f"'{name}' has no default for every parameter ({error}); set it under strategies: {{use: {name}, ...}}"
            ) from None
    if name in registry.recipes:
        raise FormulaError(_said_of_recipe(name, registry))
    if operands:
        known = {*operands, *registry.strategies}
        raise FormulaError(
            f"the formula uses '{name}', which is neither under strategies: ({listing(operands)}) nor a "
            f"registered strategy ({listing(registry.strategies)}).{did_you_mean(name, known)}"
            f"{broken(registry.plugins)}"
        )
    return registry.strategy(name)()


_MEANT = {
    "keep": ("ratio", "keep_ratio", "budget", "k", "num_tokens", "tokens", "retain"),
    "at": ("site", "layer", "where"),
    "select": ("formula", "strategy", "method", "expression"),
    "rest": ("merge", "drop"),
    "per": ("group",),
}
"""What others call the keys of a stage."""


def _key_hint(key: str, keys: Sequence[str], data: Mapping[str, object]) -> str:
    """Return what may have been meant by an unknown key."""
    if data[key] is None and any(
        isinstance(value, str) and value.count("(") > value.count(")") for value in data.values()
    ):
        return " A comma between { and } ends a value: quote the formula."
    meant = next((one for one, others in _MEANT.items() if key in others and one in keys), None)
    if meant is not None:
        return f" It is called '{meant}'."
    if key in ("models", "tasks", "recipes") and "stages" in keys:
        return " This is a study: tokensieve compare runs it."
    return did_you_mean(key, keys)


def _said_of_recipe(name: str, registry: Registry) -> str:
    """Return that a name is a recipe's, which is no operand, with the formulas of its stages."""
    data = yaml_lines.read(registry.recipe(name).read_text(encoding="utf-8"), name).data
    stages = [stage for stage in data.get("stages") or () if isinstance(stage, dict)]
    named = (data.get("strategies") or {}).items()
    used = {key: entry if isinstance(entry, str) else entry["use"] for key, entry in named}
    formulas = dict.fromkeys(
        re.sub(r"\w+", lambda word: used.get(word[0], word[0]), str(stage["select"])) for stage in stages
    )
    return (
        f"'{name}' is a recipe, which is no operand: write the formula of its stage instead, here "
        f"{' and '.join(f'`{one}`' for one in formulas)}"
    )
