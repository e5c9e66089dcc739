"""Reading the fields of a study from YAML; every error names file and line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tokensieve.errors import (
    BudgetError,
    PluginError,
    SettingError,
    StudyError,
    TaskError,
    TokensieveError,
    UnknownTaskError,
    cure_of,
    did_you_mean,
    listing,
)
from tokensieve.plugins.registry import Registry
from tokensieve.recipes import yaml_lines
from tokensieve.recipes.recipe import Recipe
from tokensieve.recipes.source import kind_of
from tokensieve.study.spec.budget import Budget
from tokensieve.study.spec.entries import ControlSettings, MethodEntry, ModelEntry, TaskEntry, models_field
from tokensieve.study.spec.plugins import register_plugins

_STAGE_KEYS = ("at", "select", "keep", "r", "per", "rest", "by", "newlines", "demand", "over")
_INLINE_KEYS = ("name", "title", "paper", "positions", "strategies", "stages", "budgets", *_STAGE_KEYS)
_USE_KEYS = ("use", "name", "keep", "models")


class StudyReader:
    """Reads a study's fields from a YAML document; every error names file and line.

    Args:
        document: the document.
        registry: where recipes, strategies and tasks are looked up; plugins that the study names are registered in it.
        source: the document's path, for messages.
    """

    def __init__(self, document: yaml_lines.Document, registry: Registry, source: str) -> None:
        self._document = document
        self._registry = registry
        self._source = source

    def fields(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the fields of the study, with models, recipes, budgets, tasks and controls as values.

        Args:
            keys: the keys that a study may have.

        Raises:
            TokensieveError: if the document is no mapping, has an unknown key, or an entry is not valid.
        """
        data = self._document.data
        if not isinstance(data, dict):
            raise self._error(StudyError, f"a study is a mapping with the keys {', '.join(keys)}", ())
        if "stages" in data and "models" not in data:
            said = "this is a recipe: tokensieve check reviews it, and a study names its file under recipes:"
            raise self._error(StudyError, said, ("stages",))
        self._check_keys(data, keys, (), "a study")
        own = [isinstance(entry, dict) and entry.get("keep") is not None for entry, _ in self._entries("models")]
        for key in ("models", "tasks") if all(own) else ("models", "keep", "tasks"):
            if data.get(key) in (None, []):
                raise self._error(StudyError, f"a study needs '{key}'", (key,))
        plugins = data.get("plugins") or []
        for i, plugin in enumerate(plugins if isinstance(plugins, list) else [plugins]):
            try:
                register_plugins([str(plugin)], self._registry)
            except PluginError as error:
                raise self._error(type(error), str(error), ("plugins", i)) from None
        fields = {key: value for key, value in data.items() if value is not None}
        fields["models"] = [self._model(*entry) for entry in self._entries("models")]
        if data.get("keep") is not None:
            fields["keep"] = self._budgets(data["keep"], ("keep",))
        fields["recipes"] = [self._method(*entry) for entry in self._entries("recipes")]
        fields["tasks"] = [self._task(*entry) for entry in self._entries("tasks")]
        for key in ("seeds", "plugins"):
            if key in fields and not isinstance(fields[key], list):
                fields[key] = [fields[key]]
        if "controls" in fields:
            fields["controls"] = self._controls(fields["controls"])
        return fields

    def check_names(
        self, models: Sequence[ModelEntry], recipes: Sequence[MethodEntry], tasks: Sequence[TaskEntry]
    ) -> None:
        """Check that names are unique, and that recipes and tasks name models of the study.

        Raises:
            StudyError: if two entries of a list have the same name, or an entry names an unknown model.
        """
        lists: dict[str, Sequence[ModelEntry | MethodEntry | TaskEntry]]
        lists = {"models": models, "recipes": recipes, "tasks": tasks}
        for key, entries in lists.items():
            names: set[str] = set()
            for i, entry in enumerate(entries):
                if entry.name in names:
                    message = f"two of the {key} are named '{entry.name}'; give one of them another name"
                    raise self._error(StudyError, message, (key, i))
                names.add(entry.name)
        known = {model.name for model in models}
        uses = [("recipes", i, name) for i, method in enumerate(recipes) for name in method.models or ()]
        uses += [("tasks", i, name) for i, task in enumerate(tasks) for name in task.models or ()]
        for key, i, name in uses:
            if name not in known:
                message = f"the study has no model '{name}'; it has {listing(known)}.{did_you_mean(name, known)}"
                raise self._error(StudyError, message, (key, i, "models"))

    def locations(self) -> dict[tuple[str, int], str]:
        """Return the file and line of every model, recipe and task, by key and index."""
        return {
            (key, i): f"  ({self._document.place(path, self._source)})"
            for key in ("models", "recipes", "tasks")
            for i, (_, path) in enumerate(self._entries(key))
        }

    def invalid(self, error: ValidationError, path: yaml_lines.Path = ()) -> TokensieveError:
        """Return the first mistake of a validation as an error with file and line.

        Args:
            error: the mistakes.
            path: where the validated entry is in the document.
        """
        detail = error.errors()[0]
        message = cure_of(detail)
        where = ".".join(map(str, detail["loc"])) or "it"
        if detail["type"] == "missing":
            return self._error(StudyError, f"{where}: {message}", (*path, *detail["loc"]))
        shown = repr(detail.get("input"))
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        return self._error(StudyError, f"{where} is {shown}: {message}", (*path, *detail["loc"]))

    def _entries(self, key: str) -> list[tuple[Any, yaml_lines.Path]]:
        value = self._document.data.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            return [(value, (key,))]
        return [(entry, (key, i)) for i, entry in enumerate(value)]

    def _model(self, entry: Any, path: yaml_lines.Path) -> ModelEntry:
        data = {"path": entry} if isinstance(entry, str) else entry
        if not isinstance(data, dict):
            raise self._error(StudyError, "a model is a name, a folder, a hub id, or a mapping with path", path)
        self._check_keys(data, list(ModelEntry.model_fields), path, "a model")
        if data.get("keep") is not None:
            data = {**data, "keep": self._budgets(data["keep"], (*path, "keep"))}
        try:
            return ModelEntry.model_validate(data)
        except ValidationError as error:
            raise self.invalid(error, path) from None

    def _method(self, entry: Any, path: yaml_lines.Path) -> MethodEntry:
        if isinstance(entry, str):
            recipe = self._load_recipe(entry, path)
            return self._validate_method(path, name=_name_of(recipe, entry), recipe=recipe)
        if not isinstance(entry, dict):
            raise self._error(StudyError, "a recipe is a name, a path to YAML, or a mapping with use or select", path)
        used = "use" in entry
        keys = _USE_KEYS if used else (*_INLINE_KEYS, "models")
        self._check_keys(entry, keys, path, "a recipe of a study" + (" with use" if used else ""))
        rest: dict[str, Any] = models_field(entry)
        if entry.get("keep") is not None:
            rest["keep"] = self._budgets(entry["keep"], (*path, "keep"))
        if used:
            recipe = self._load_recipe(str(entry["use"]), (*path, "use"))
            name = entry.get("name") or _name_of(recipe, str(entry["use"]))
            return self._validate_method(path, name=name, recipe=recipe, **rest)
        if not entry.get("name"):
            raise self._error(StudyError, "a recipe that is written out in a study needs a name", path)
        return self._validate_method(path, name=entry["name"], recipe=self._inline_recipe(entry, path), **rest)

    def _validate_method(self, path: yaml_lines.Path, **fields: Any) -> MethodEntry:
        try:
            return MethodEntry.model_validate(fields)
        except ValidationError as error:
            raise self.invalid(error, path) from None

    def _load_recipe(self, name: str, path: yaml_lines.Path) -> Recipe:
        try:
            # The study has the budget of a formula; until it is applied, one token is a placeholder.
            return Recipe.load(name, self._registry, keep=1 if kind_of(name, self._registry) == "formula" else None)
        except TokensieveError as error:
            raise self._error(type(error), str(error), path) from None

    def _inline_recipe(self, entry: dict[str, Any], path: yaml_lines.Path) -> Recipe:
        """Read a recipe that is written out in the study; errors have the lines of the study."""
        lines = {at[len(path) :]: line for at, line in self._document.lines.items() if at[: len(path)] == path}
        changed = {at[len(path) :]: said for at, said in self._document.changed.items() if at[: len(path)] == path}
        data = {key: value for key, value in entry.items() if key not in ("keep", "models")}
        stage = {key: data.pop(key) for key in _STAGE_KEYS if key in data}
        if "stages" not in data:
            # The study has the budget; until it is applied, one token is a placeholder.
            budget = {} if "r" in stage else {"keep": 1 if stage.get("demand") is None else "mean 1"}
            data["stages"] = [{"at": "decoder.0", **budget, **stage}]
            lines |= {("stages", 0, *at): line for at, line in lines.items() if at and at[0] in _STAGE_KEYS}
            lines |= {("stages", 0): lines[("select",)]} if ("select",) in lines else {}
            changed |= {("stages", 0, *at): said for at, said in changed.items() if at and at[0] in _STAGE_KEYS}
        elif stage:
            message = f"'{next(iter(stage))}' stands beside stages; write it into one of them"
            raise self._error(StudyError, message, (*path, next(iter(stage))))
        if isinstance(data.get("budgets"), dict):
            data["budgets"] = {int(key) if str(key).isdecimal() else key: v for key, v in data["budgets"].items()}
        return Recipe.read(yaml_lines.Document(data, lines, changed), self._registry, self._source)

    def _task(self, entry: Any, path: yaml_lines.Path) -> TaskEntry:
        data = {"use": entry} if isinstance(entry, str) else entry
        if not isinstance(data, dict) or not isinstance(data.get("use"), str):
            raise self._error(StudyError, "a task is a name, or a mapping with use: NAME and its settings", path)
        try:
            task = TaskEntry.model_validate(TaskEntry.fields_of(data))
            task.build(self._registry)
        except ValidationError as error:
            raise self.invalid(error, path) from None
        except UnknownTaskError as error:
            raise self._error(UnknownTaskError, str(error), (*path, "use")) from None
        except (SettingError, TaskError) as error:
            cause = error.__cause__
            wrong = cause.errors()[0]["loc"][:1] if isinstance(cause, ValidationError) else ()
            at = wrong if wrong and wrong[0] in data else ("use",)
            raise self._error(StudyError, str(error), (*path, *at)) from None
        return task

    def _controls(self, data: Any) -> ControlSettings:
        if not isinstance(data, dict):
            message = f"controls is a mapping of {listing(ControlSettings.model_fields)}; without it, all controls run"
            raise self._error(StudyError, message, ("controls",))
        self._check_keys(data, list(ControlSettings.model_fields), ("controls",), "controls")
        if data.get("inverted") is not None:
            data = {**data, "inverted": self._budgets(data["inverted"], ("controls", "inverted"))}
        try:
            return ControlSettings.model_validate(data)
        except ValidationError as error:
            raise self.invalid(error, ("controls",)) from None

    def _budgets(self, value: Any, path: yaml_lines.Path) -> tuple[Budget, ...]:
        budgets = []
        for i, one in enumerate(value if isinstance(value, list) else [value]):
            try:
                budgets.append(Budget.of(one))
            except BudgetError as error:
                raise self._error(BudgetError, str(error), (*path, i)) from None
        return tuple(dict.fromkeys(budgets))

    def _check_keys(self, data: Mapping[Any, Any], keys: Sequence[str], path: yaml_lines.Path, what: str) -> None:
        for key in data:
            if key not in keys:
                message = f"{what} has no key '{key}'; it has {', '.join(keys)}.{did_you_mean(str(key), keys)}"
                raise self._error(StudyError, message, (*path, key))

    def _error(self, kind: type[TokensieveError], message: str, path: yaml_lines.Path) -> TokensieveError:
        return kind(f"{message[:1700]}  ({self._document.place(tuple(path), self._source)})")


def _name_of(recipe: Recipe, source: str) -> str:
    """Return the recipe's own name, or that of its file where it has none."""
    return recipe.name if "name" in recipe.model_fields_set else Path(source).stem
