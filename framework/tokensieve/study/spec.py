"""What a study says: models x recipes x budgets x tasks x seeds, read from YAML, each mistake with its line."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from tokensieve.algebra.budget import Keep
from tokensieve.errors import (
    BudgetError,
    PluginError,
    RecipeError,
    StudyError,
    TaskError,
    TokensieveError,
    UnknownTaskError,
    did_you_mean,
    listing,
)
from tokensieve.plugins.registry import Registry, default_registry
from tokensieve.recipes import yaml_lines
from tokensieve.recipes.recipe import Recipe
from tokensieve.tasks.base import Task

OWN = "own"
"""The budget that a recipe itself says."""
_STAGE = ("at", "select", "keep", "r", "per", "rest", "by", "newlines")
_INLINE = ("name", "paper", "positions", "strategies", "stages", "budgets", *_STAGE)
_USED = ("use", "name", "keep", "models")
_NAME = r"^[\w][\w .+&|~()/-]*$"


class Budget(BaseModel):
    """A budget of a study: one for the last stage of a recipe, or one for each of its stages.

    Attributes:
        keeps: as a recipe has them; none where the recipe's own stay.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    keeps: tuple[Keep, ...]

    @classmethod
    def of(cls, value: object) -> Self:
        """Read a budget.

        Raises:
            BudgetError: if it is none.
        """
        if value == OWN:
            return cls(keeps=())
        values = value if isinstance(value, (list, tuple)) else [value]
        keeps = tuple(Keep.of(one) for one in values)
        if not keeps or any(keep.auto for keep in keeps):
            raise BudgetError(f"a study's budget is a number of tokens or a fraction, or `{OWN}`: a recipe's own")
        return cls(keeps=keeps)

    def written(self) -> Any:
        """Return the form in which a study writes it."""
        written = [keep.written() for keep in self.keeps]
        return OWN if not written else written[0] if len(written) == 1 else written

    def __str__(self) -> str:
        return ", ".join(map(str, self.keeps)) or OWN


class Model(BaseModel):
    """A model of a study.

    Attributes:
        path: a shipped checkpoint's name, a folder, or a repository's id at the Hugging Face hub.
        name: what reports call it; the path's last part by default.
        revision: of the hub's repository.
        query_encoder: the two-tower model of its vision tower's space, given as `path` is; a shipped checkpoint's own
            by default.
        device: where it runs; an accelerator if there is one.
        dtype: of its weights; as they were saved by default.
        geometry: the name of a registered geometry, by which a dry run counts where the checkpoint is not here.
        keep: its own budgets instead of the study's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    path: str = Field(min_length=1)
    name: str = Field(default="", pattern=f"{_NAME}|^$")
    revision: str | None = None
    query_encoder: str | None = None
    device: str | None = None
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    geometry: str | None = None
    keep: tuple[Budget, ...] | None = Field(default=None, min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: object) -> object:
        if isinstance(data, dict) and not data.get("name") and isinstance(data.get("path"), str):
            return {**data, "name": data["path"].rstrip("/").rpartition("/")[2]}
        return data


class Method(BaseModel):
    """A recipe of a study.

    Attributes:
        name: what reports call it.
        recipe: it.
        keep: its own budgets instead of the study's and of any model's.
        models: the models that it runs on; all by default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str = Field(pattern=_NAME)
    recipe: Recipe
    keep: tuple[Budget, ...] | None = None
    models: tuple[str, ...] | None = None


class TaskEntry(BaseModel):
    """A task of a study.

    Attributes:
        name: what reports call it; the task's own name by default.
        use: the task's name.
        fields: its settings.
        models: the models that are asked; all by default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=_NAME)
    use: str
    fields: Mapping[str, Any] = {}
    models: tuple[str, ...] | None = None

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        """Read a study's entry: `use`, `name`, `models`, and beside them the task's settings.

        Raises:
            ValidationError: if its name or its models cannot be used.
        """
        fields = {key: value for key, value in entry.items() if key not in ("use", "name", "models")}
        return cls(name=entry.get("name") or entry["use"], use=entry["use"], fields=fields, **_only(entry))

    def task(self, registry: Registry) -> Task:
        """Make the task.

        Raises:
            UnknownTaskError: if nobody registered it.
            TaskError: if its settings cannot be used.
        """
        kind = registry.task(self.use)
        try:
            # In JSON's way: YAML too has lists for tuples.
            return kind.model_validate(dict(self.fields), strict=False)
        except ValidationError as error:
            detail = error.errors()[0]
            where = ".".join(map(str, detail["loc"]))
            known = listing(kind.model_fields)
            said = str(detail["msg"]).removeprefix("Value error, ")
            raise TaskError(f"the task '{self.use}': {where}: {said}; its settings: {known}") from None


class Controls(BaseModel):
    """What the controls of a study leave out; all of them run by default.

    Attributes:
        inverted: the budgets at which every method is also run upside down; all of the study's by default.
        at_every_site: whether methods that cut elsewhere than at `decoder.0` get controls of their own that cut where
            they do. Without them such a method has no control of the same cost.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    inverted: tuple[Budget, ...] | None = None
    at_every_site: bool = True

    @field_validator("inverted", mode="before")
    @classmethod
    def _budgets(cls, value: object) -> object:
        return value if value is None else _budgets(value)


class Study(BaseModel):
    """Models x recipes x budgets x tasks x seeds.

    Attributes:
        name: what it is called.
        models: what is pruned.
        recipes: the methods.
        keep: budgets of all models that have none of their own. See `cells.budgeted` for what one means for a recipe
            of several stages.
        tasks: what models are asked.
        seeds: of every random draw.
        batch: samples in a forward pass.
        limit: samples of each task, evenly spread over its types of question and over it; all by default.
        share: whether a picture is encoded once for all cells that ask about it. The encoder's time is then measured
            apart, and added to every cell's.
        controls: what the controls leave out.
        plugins: modules with plugins that are not installed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str = Field(default="study", pattern=_NAME)
    models: tuple[Model, ...] = Field(min_length=1)
    recipes: tuple[Method, ...] = ()
    keep: tuple[Budget, ...] = ()
    tasks: tuple[TaskEntry, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    batch: int = Field(default=16, ge=1)
    limit: int | None = Field(default=None, ge=1)
    share: bool = True
    controls: Controls = Controls()
    plugins: tuple[str, ...] = ()

    _places: dict[tuple[str, int], str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _kept(self) -> Self:
        if not self.keep and any(model.keep is None for model in self.models):
            raise ValueError("a study needs 'keep', or each of its models does")
        return self

    def place(self, key: str, number: int) -> str:
        """Return where an entry stands, ` (PATH:LINE)`, or nothing for a study that was in no file."""
        return self._places.get((key, number), "")

    def __eq__(self, other: object) -> bool:
        """Compare what is said, not where."""
        return isinstance(other, Study) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        """Hash what is said."""
        return hash(self.dump())

    @classmethod
    def load(cls, path: str | Path, registry: Registry | None = None, settings: Sequence[str] = ()) -> Study:
        """Read a study from a file; `settings` are overrides such as `keep=64,128` (see `override`).

        Raises:
            StudyError: or another kind of `TokensieveError` that names the mistake, with file and line.
        """
        try:
            with Path(path).open(encoding="utf-8") as opened:
                # One more than is read, so that an endless file is too large and not endless.
                text = opened.read(yaml_lines.LARGEST + 1)
        except FileNotFoundError:
            raise StudyError(f"there is no study {path}; name a YAML file of models, recipes, keep and tasks") from None
        except (OSError, ValueError) as error:
            raise StudyError(f"{path} cannot be read: {error}") from None
        return cls.loads(text, registry, str(path), settings)

    @classmethod
    def loads(
        cls, text: str, registry: Registry | None = None, source: str = "<text>", settings: Sequence[str] = ()
    ) -> Study:
        """Read a study from YAML text.

        Plugins that the study names are registered in `registry`.

        Raises:
            StudyError: or another kind of `TokensieveError` that names the mistake, with file and line.
        """
        try:
            document = yaml_lines.read(text, source)
        except RecipeError as error:
            raise StudyError(str(error)) from None
        if isinstance(document.data, dict):
            for setting in settings:
                override(document.data, setting)
        return _Reader(document, registry or default_registry(), source).study()

    def to_dict(self) -> dict[str, Any]:
        """Return the study as plain data, recipes written out, ready for YAML."""
        data: dict[str, Any] = {"name": self.name}
        if self.plugins:
            data["plugins"] = list(self.plugins)
        data["models"] = [_model_written(model) for model in self.models]
        data["recipes"] = [_written(method) for method in self.recipes]
        if self.keep:
            data["keep"] = [budget.written() for budget in self.keep]
        data["tasks"] = [_task_written(task) for task in self.tasks]
        data |= {"seeds": list(self.seeds), "batch": self.batch}
        if self.limit is not None:
            data["limit"] = self.limit
        if not self.share:
            data["share"] = False
        controls: dict[str, Any] = {"at_every_site": self.controls.at_every_site}
        if self.controls.inverted is not None:
            controls["inverted"] = [budget.written() for budget in self.controls.inverted]
        return data | {"controls": controls}

    def dump(self) -> str:
        """Return the study as YAML; `loads` reads it back equal."""
        return yaml_lines.write(self.to_dict())


def _only(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the models that an entry is for, where it says so."""
    models = entry.get("models")
    return {} if models is None else {"models": [models] if isinstance(models, str) else models}


def _model_written(model: Model) -> dict[str, Any]:
    own = {} if model.keep is None else {"keep": [budget.written() for budget in model.keep]}
    return model.model_dump(exclude_defaults=True, exclude={"keep"}) | own


def _task_written(task: TaskEntry) -> dict[str, Any]:
    own = {} if task.models is None else {"models": list(task.models)}
    return {"name": task.name, "use": task.use, **own, **task.fields}


def _written(method: Method) -> dict[str, Any]:
    data = {**method.recipe.to_dict(), "name": method.name}
    # Lists of budgets by number are written where numbers may be keys: in a recipe's own file.
    data.pop("budgets", None)
    if method.recipe.budgets:
        data["budgets"] = {str(n): [keep.written() for keep in keeps] for n, keeps in method.recipe.budgets.items()}
    if method.keep is not None:
        data["keep"] = [budget.written() for budget in method.keep]
    if method.models is not None:
        data["models"] = list(method.models)
    return data


def register(plugins: Iterable[str], registry: Registry) -> None:
    """Register plugin modules by name, those that are not yet.

    Raises:
        PluginError: if one cannot be imported, or adds something that is not valid.
    """
    known = {plugin.name for plugin in registry.plugins}
    for name in plugins:
        if name in known:
            continue
        try:
            with _from_here():
                module = importlib.import_module(name)
        # A stranger's module can raise anything.
        except Exception as error:
            raise PluginError(f"the plugin '{name}' cannot be imported: {type(error).__name__}: {error}") from None
        registry.register(module, name, f"module {name}")


@contextmanager
def _from_here() -> Iterator[None]:
    """Let modules of the working folder be imported, as `python` itself does."""
    here = str(Path.cwd())
    if here in sys.path:
        yield
        return
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)


def override(data: dict[Any, Any], setting: str) -> None:
    """Change a study's data by a setting `PATH=VALUE`.

    A path is keys joined by dots; an entry of a list is named by its name or its number: `limit=100`,
    `keep=64,128`, `tasks.world.questions=200`, `models.0.device=cpu`. The value is YAML; with commas outside
    brackets it is a list.

    Raises:
        StudyError: if it is none, or leads nowhere.
    """
    path, equals, text = setting.partition("=")
    steps = path.strip().split(".")
    if not equals or not all(steps):
        raise StudyError(f"'{setting}' is no setting; write PATH=VALUE, such as keep=64,128")
    here: Any = data
    for depth, step in enumerate(steps[:-1]):
        if isinstance(here, list):
            here = _entry(here, step, steps[0], setting)
        elif isinstance(here, dict):
            here = here.setdefault(step, {})
        else:
            raise StudyError(f"--set {setting}: there is nothing inside {'.'.join(steps[:depth])}")
    value = _value(text, setting)
    if isinstance(here, dict):
        here[steps[-1]] = value
    elif isinstance(here, list) and steps[-1].isdecimal() and int(steps[-1]) < len(here):
        here[int(steps[-1])] = value
    else:
        raise StudyError(f"--set {setting}: {'.'.join(steps[:-1])} has no '{steps[-1]}'")


def _entry(entries: list[Any], step: str, kind: str, setting: str) -> Any:
    """Return the entry of a list that has a name or a number; a bare name becomes a mapping."""
    bare = "path" if kind == "models" else "use"
    for place, entry in enumerate(entries):
        names = [entry.get(key) for key in ("name", "use", "path")] if isinstance(entry, dict) else [entry]
        if step in names or step == str(place):
            if not isinstance(entry, (dict, list)):
                entries[place] = {bare: entry}
            return entries[place]
    known = [str(entry.get("name") or entry.get(bare)) if isinstance(entry, dict) else str(entry) for entry in entries]
    raise StudyError(f"--set {setting}: {kind} has no entry '{step}'; it has {listing(known)}")


def _value(text: str, setting: str) -> Any:
    source = f"--set {setting}"
    try:
        bracketed = text.lstrip().startswith(("[", "{"))
        return yaml_lines.read(f"[{text}]" if "," in text and not bracketed else text, source).data
    except RecipeError as error:
        raise StudyError(str(error)) from None


def _budgets(value: object) -> tuple[Budget, ...]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return tuple(one if isinstance(one, Budget) else Budget.of(one) for one in values)


class _Reader:
    """Turns marked data into a study, and every mistake into an error with a line."""

    def __init__(self, document: yaml_lines.Document, registry: Registry, source: str) -> None:
        self._document = document
        self._registry = registry
        self._source = source

    def study(self) -> Study:
        data = self._document.data
        keys = list(Study.model_fields)
        if not isinstance(data, dict):
            raise self._error(StudyError, f"a study is a mapping with the keys {', '.join(keys)}", ())
        self._known(data, keys, (), "a study")
        own = [isinstance(entry, dict) and entry.get("keep") is not None for entry, _ in self._entries("models")]
        for key in ("models", "tasks") if all(own) else ("models", "keep", "tasks"):
            if data.get(key) in (None, []):
                raise self._error(StudyError, f"a study needs '{key}'", (key,))
        plugins = data.get("plugins") or []
        for i, plugin in enumerate(plugins if isinstance(plugins, list) else [plugins]):
            try:
                register([str(plugin)], self._registry)
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
        if isinstance(fields.get("controls"), dict):
            fields["controls"] = self._controls(fields["controls"])
        try:
            study = Study.model_validate(fields)
        except ValidationError as error:
            raise self._invalid(error, ()) from None
        self._distinct(study)
        for key in ("models", "recipes", "tasks"):
            for i, (_, path) in enumerate(self._entries(key)):
                study._places[key, i] = f"  ({self._source}:{self._document.line(path)})"
        return study

    def _entries(self, key: str) -> list[tuple[Any, yaml_lines.Path]]:
        value = self._document.data.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            return [(value, (key,))]
        return [(entry, (key, i)) for i, entry in enumerate(value)]

    def _model(self, entry: Any, path: yaml_lines.Path) -> Model:
        data = {"path": entry} if isinstance(entry, str) else entry
        if not isinstance(data, dict):
            raise self._error(StudyError, "a model is a name, a folder, a hub id, or a mapping with path", path)
        self._known(data, list(Model.model_fields), path, "a model")
        if data.get("keep") is not None:
            data = {**data, "keep": self._budgets(data["keep"], (*path, "keep"))}
        try:
            return Model.model_validate(data)
        except ValidationError as error:
            raise self._invalid(error, path) from None

    def _method(self, entry: Any, path: yaml_lines.Path) -> Method:
        if isinstance(entry, str):
            return self._make(path, name=Path(entry).stem, recipe=self._used(entry, path))
        if not isinstance(entry, dict):
            raise self._error(StudyError, "a recipe is a name, a path to YAML, or a mapping with use or select", path)
        used = "use" in entry
        keys = _USED if used else (*_INLINE, "models")
        self._known(entry, keys, path, "a recipe of a study" + (" with use" if used else ""))
        rest: dict[str, Any] = _only(entry)
        if entry.get("keep") is not None:
            rest["keep"] = self._budgets(entry["keep"], (*path, "keep"))
        if used:
            recipe = self._used(str(entry["use"]), (*path, "use"))
            return self._make(path, name=entry.get("name") or Path(str(entry["use"])).stem, recipe=recipe, **rest)
        if not entry.get("name"):
            raise self._error(StudyError, "a recipe that is written out in a study needs a name", path)
        return self._make(path, name=entry["name"], recipe=self._inline(entry, path), **rest)

    def _make(self, path: yaml_lines.Path, **fields: Any) -> Method:
        try:
            return Method.model_validate(fields)
        except ValidationError as error:
            raise self._invalid(error, path) from None

    def _used(self, name: str, path: yaml_lines.Path) -> Recipe:
        try:
            return Recipe.load(name, self._registry)
        except TokensieveError as error:
            raise self._error(type(error), str(error), path) from None

    def _inline(self, entry: dict[str, Any], path: yaml_lines.Path) -> Recipe:
        """Read a recipe that stands in the study, with the study's lines."""
        lines = {at[len(path) :]: line for at, line in self._document.lines.items() if at[: len(path)] == path}
        data = {key: value for key, value in entry.items() if key not in ("keep", "models")}
        stage = {key: data.pop(key) for key in _STAGE if key in data}
        if "stages" not in data:
            # The budget is the study's; one token stands in for it.
            budget = {} if "r" in stage else {"keep": 1}
            data["stages"] = [{"at": "decoder.0", **budget, **stage}]
            lines |= {("stages", 0, *at): line for at, line in lines.items() if at and at[0] in _STAGE}
        elif stage:
            said = f"'{next(iter(stage))}' stands beside stages; write it into one of them"
            raise self._error(StudyError, said, (*path, next(iter(stage))))
        if isinstance(data.get("budgets"), dict):
            data["budgets"] = {int(key) if str(key).isdecimal() else key: v for key, v in data["budgets"].items()}
        return Recipe.read(yaml_lines.Document(data, lines), self._registry, self._source)

    def _task(self, entry: Any, path: yaml_lines.Path) -> TaskEntry:
        data = {"use": entry} if isinstance(entry, str) else entry
        if not isinstance(data, dict) or not isinstance(data.get("use"), str):
            raise self._error(StudyError, "a task is a name, or a mapping with use: NAME and its settings", path)
        try:
            asked = TaskEntry.of(data)
            asked.task(self._registry)
        except ValidationError as error:
            raise self._invalid(error, path) from None
        except UnknownTaskError as error:
            raise self._error(UnknownTaskError, str(error), (*path, "use")) from None
        except TaskError as error:
            wrong = next((key for key in data if f": {key}:" in str(error)), "use")
            raise self._error(StudyError, str(error), (*path, wrong)) from None
        return asked

    def _controls(self, data: dict[str, Any]) -> Controls:
        self._known(data, list(Controls.model_fields), ("controls",), "controls")
        if data.get("inverted") is not None:
            data = {**data, "inverted": self._budgets(data["inverted"], ("controls", "inverted"))}
        try:
            return Controls.model_validate(data)
        except ValidationError as error:
            raise self._invalid(error, ("controls",)) from None

    def _budgets(self, value: Any, path: yaml_lines.Path) -> tuple[Budget, ...]:
        budgets = []
        for i, one in enumerate(value if isinstance(value, list) else [value]):
            try:
                budgets.append(Budget.of(one))
            except BudgetError as error:
                raise self._error(BudgetError, str(error), (*path, i)) from None
        return tuple(dict.fromkeys(budgets))

    def _distinct(self, study: Study) -> None:
        """Refuse two of one name, and names that lead nowhere."""
        for key in ("models", "recipes", "tasks"):
            names: dict[str, int] = {}
            for i, one in enumerate(getattr(study, key)):
                if one.name in names:
                    said = f"two of the {key} are named '{one.name}'; give one of them another name"
                    raise self._error(StudyError, said, (key, i))
                names[one.name] = i
        models = {model.name for model in study.models}
        some = [("recipes", i, name) for i, method in enumerate(study.recipes) for name in method.models or ()]
        some += [("tasks", i, name) for i, task in enumerate(study.tasks) for name in task.models or ()]
        for key, i, name in some:
            if name not in models:
                said = f"the study has no model '{name}'; it has {listing(models)}.{did_you_mean(name, models)}"
                raise self._error(StudyError, said, (key, i, "models"))

    def _known(self, data: Mapping[Any, Any], keys: Sequence[str], path: yaml_lines.Path, what: str) -> None:
        for key in data:
            if key not in keys:
                said = f"{what} has no key '{key}'; it has {', '.join(keys)}.{did_you_mean(str(key), keys)}"
                raise self._error(StudyError, said, (*path, key))

    def _invalid(self, error: ValidationError, path: yaml_lines.Path) -> TokensieveError:
        detail = error.errors()[0]
        said = str(detail["msg"]).removeprefix("Value error, ")
        where = ".".join(map(str, detail["loc"])) or "it"
        shown = repr(detail.get("input"))
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        return self._error(StudyError, f"{where} is {shown}: {said}", (*path, *detail["loc"]))

    def _error(self, kind: type[TokensieveError], message: str, path: yaml_lines.Path) -> TokensieveError:
        return kind(f"{message[:1700]}  ({self._source}:{self._document.line(tuple(path))})")
