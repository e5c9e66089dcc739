"""The registry: what plugins brought, as a value."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType
from typing import Any, Concatenate, ParamSpec, TypeVar

import pluggy
from torch import nn

from tokensieve.composers.builtin import COMPOSERS
from tokensieve.composers.expression import Composer
from tokensieve.errors import (
    PluginError,
    RefusedError,
    UnknownCheckpointError,
    UnknownComposerError,
    UnknownGeometryError,
    UnknownNameError,
    UnknownRecipeError,
    UnknownStrategyError,
    UnknownTaskError,
    UnsupportedModelError,
    did_you_mean,
    listing,
    text_of,
)
from tokensieve.models.adapter import Adapter
from tokensieve.plugins import hookspecs
from tokensieve.plugins.checks import problem
from tokensieve.plugins.plugin import BY_HAND, ENTRY_POINTS, OWN, Checkpoint, Plugin, _said, broken
from tokensieve.plugins.rivals import rivals
from tokensieve.plugins.wrapped import unwrap
from tokensieve.strategy import Strategy
from tokensieve.tasks.base import Task

T = TypeVar("T")
P = ParamSpec("P")

HOOKS = ("register_strategies", "register_composers", "register_recipes", "register_adapters", "register_tasks")
"""The hooks that add something, in the order in which they are called."""


_NOT_IN_A_WHEEL = (
    "; a wheel carries files of a package only: make the module a folder, with its code in __init__.py and the file "
    "beside it"
)


def _one_thing(add: Callable[Concatenate[Registry, P], None]) -> Callable[Concatenate[Registry, P], None]:
    """Let what cannot be added cost an installed plugin that thing alone: it is written down instead of raised."""

    @functools.wraps(add)
    def added(registry: Registry, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            add(registry, *args, **kwargs)
        except PluginError as error:
            if registry._left_out is None:
                raise
            registry._left_out.append(text_of(error))

    return added


class Registry:
    """Strategies, composers, recipes and adapters by name.

    Start from `Registry()` for the composers alone, or `default_registry()` for everything
    installed. Registries do not know of each other.
    """

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._strategies: dict[str, type[Strategy]] = {}
        self._composers: dict[str, type[Composer]] = {}
        self._recipes: dict[str, Traversable] = {}
        self._geometries: dict[str, Traversable] = {}
        self._adapters: dict[str, type[Adapter]] = {}
        self._tasks: dict[str, type[Task]] = {}
        self._checkpoints: dict[str, Checkpoint] = {}
        self._origins: dict[tuple[str, str], str] = {}
        self._plugins: list[Plugin] = []
        # Names that two installed plugins bring: nobody could tell which was meant, so neither is there.
        self._ambiguous: dict[tuple[str, str], None] = {}
        # What the plugin that is being loaded could not add; none where an error is raised.
        self._left_out: list[str] | None = None
        self._current = OWN
        for composer in COMPOSERS:
            self.add_composer(composer)
        self._current = BY_HAND

    # What there is

    @property
    def strategies(self) -> Mapping[str, type[Strategy]]:
        """Strategies by name."""
        return MappingProxyType(self._strategies)

    @property
    def composers(self) -> Mapping[str, type[Composer]]:
        """Composers by name."""
        return MappingProxyType(self._composers)

    @property
    def recipes(self) -> Mapping[str, Traversable]:
        """Files of shipped recipes by name."""
        return MappingProxyType(self._recipes)

    @property
    def geometries(self) -> Mapping[str, Traversable]:
        """Files of real-size model geometries by name."""
        return MappingProxyType(self._geometries)

    @property
    def adapters(self) -> Mapping[str, type[Adapter]]:
        """Adapters by name."""
        return MappingProxyType(self._adapters)

    @property
    def tasks(self) -> Mapping[str, type[Task]]:
        """Tasks by name."""
        return MappingProxyType(self._tasks)

    @property
    def checkpoints(self) -> Mapping[str, Checkpoint]:
        """Shipped checkpoints by name."""
        return MappingProxyType(self._checkpoints)

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """Every plugin that was asked for, also those that did not load."""
        return tuple(self._plugins)

    @property
    def hook(self) -> pluggy.HookRelay:
        """The hooks of all plugins."""
        return self._manager.hook

    def implements(self, name: str) -> set[str]:
        """Return the names of the hooks that a plugin implements."""
        plugin = self._manager.get_plugin(name)
        callers = (self._manager.get_hookcallers(plugin) if plugin is not None else None) or ()
        return {caller.name for caller in callers}

    def is_registered(self, plugin: object) -> bool:
        """Return whether a module or object is registered as a plugin."""
        return self._manager.is_registered(plugin)

    def origin(self, kind: str, name: str) -> str:
        """Return the plugin that brought something: a `strategy`, a `recipe`, an `adapter`, and so on."""
        return self._origins[(kind, name)]

    def foreign_composer(self, name: str) -> str | None:
        """Return where a composer of a plugin comes from, for messages; none for the framework's own."""
        origin = self._origins.get(("composer", name), OWN)
        return None if origin == OWN else origin if origin == BY_HAND else f"of the plugin {origin}"

    def strategy(self, name: str) -> type[Strategy]:
        """Return a strategy by name, or raise `UnknownStrategyError`."""
        if name not in self._strategies:
            raise self._unknown(UnknownStrategyError, "strategy", name, self._strategies)
        return self._strategies[name]

    def composer(self, name: str) -> type[Composer]:
        """Return a composer by name, or raise `UnknownComposerError`."""
        if name not in self._composers:
            raise self._unknown(UnknownComposerError, "composer", name, self._composers)
        return self._composers[name]

    def recipe(self, name: str) -> Traversable:
        """Return the file of a shipped recipe, or raise `UnknownRecipeError`."""
        if name not in self._recipes:
            raise self._unknown(UnknownRecipeError, "shipped recipe", name, self._recipes)
        return self._recipes[name]

    def task(self, name: str) -> type[Task]:
        """Return a task by name, or raise `UnknownTaskError`. `-` may stand for `_`."""
        written = name.replace("-", "_")
        if written not in self._tasks:
            raise self._unknown(UnknownTaskError, "task", name, self._tasks)
        return self._tasks[written]

    def checkpoint(self, name: str) -> Checkpoint:
        """Return a shipped checkpoint, or raise `UnknownCheckpointError`."""
        if name not in self._checkpoints:
            raise self._unknown(UnknownCheckpointError, "shipped checkpoint", name, self._checkpoints)
        return self._checkpoints[name]

    def adapter_for(self, model: object) -> Adapter:
        """Return the adapter of a model, or of the one inside a wrapper: PEFT, data parallelism, a pipeline.

        Raises:
            UnsupportedModelError: if none matches, or more than one, or several models are inside.
            RefusedError: if the one that matches is of a family that cannot be pruned, or the model is compiled as a
                whole.
        """
        model = unwrap(model, lambda module: self._matching(module)[0], self._checkpoints)
        matching, failed = self._matching(model)
        kind = type(model).__name__
        model_type = getattr(getattr(model, "config", None), "model_type", None)
        described = f"{kind} (model_type '{model_type}')" if model_type else kind
        if len(matching) == 1:
            if matching[0].refusal_reason is not None:
                raise RefusedError(f"a {described} cannot be pruned: {matching[0].refusal_reason}")
            return matching[0](model)
        if not matching:
            raise UnsupportedModelError(
                f"no adapter matches {described}. Registered: {listing(self._adapters)}. "
                f"A plugin can add one with register_adapters.{failed}{broken(self._plugins)}"
            )
        raise UnsupportedModelError(rivals(matching, self.origin, f"match {described}"))

    def _matching(self, model: nn.Module) -> tuple[list[type[Adapter]], str]:
        """Return the adapters that match a module, and a sentence about each that could not tell."""
        matching, failed = [], ""
        for cls in self._adapters.values():
            try:
                if cls.matches(model):
                    matching.append(cls)
            # A stranger's predicate can raise anything on a model that is not its own.
            except Exception as error:
                who = f"'{cls.name}' ({self.origin('adapter', cls.name)})"
                failed += f" The adapter {who} could not tell ({_said(error)})."
        return matching, failed

    # Registering

    @_one_thing
    def add_strategy(self, strategy: type[Strategy]) -> None:
        """Add a strategy class under its `name`."""
        self._check_class("strategy", strategy, Strategy)
        self._refuse_twin("strategy", strategy.name, "composer", strategy.name, self._composers, "is named like")
        self._add("strategy", self._strategies, strategy.name, strategy)

    @_one_thing
    def add_composer(self, composer: type[Composer]) -> None:
        """Add a composer class under its `name`."""
        self._check_class("composer", composer, Composer)
        twin = next(
            (c.name for c in self._composers.values() if c.symbol is not None and c.symbol == composer.symbol), ""
        )
        if self._composers.get(twin) is not composer:
            has = f"has the symbol {composer.symbol}, as has"
            self._refuse_twin("composer", composer.name, "composer", twin, self._composers, has)
        self._refuse_twin("composer", composer.name, "strategy", composer.name, self._strategies, "is named like")
        self._add("composer", self._composers, composer.name, composer)

    @_one_thing
    def add_recipe(self, path: Traversable | str) -> None:
        """Add a recipe file; its stem is its name, so it holds no dot."""
        file, name = self._file("recipe", path, ("yaml", "yml"))
        self._add("recipe", self._recipes, name, file)

    @_one_thing
    def add_geometry(self, path: Traversable | str) -> None:
        """Add the JSON file of a real model's geometry, for counting; its stem is its name."""
        file, name = self._file("geometry", path, ("json",))
        self._add("geometry", self._geometries, name, file)

    def geometry(self, name: str) -> Traversable:
        """Return the file of a geometry, or raise `UnknownGeometryError`."""
        if name not in self._geometries:
            raise self._unknown(UnknownGeometryError, "geometry", name, self._geometries)
        return self._geometries[name]

    @_one_thing
    def add_adapter(self, adapter: type[Adapter]) -> None:
        """Add an adapter class under its `name`."""
        self._check_class("adapter", adapter, Adapter)
        self._add("adapter", self._adapters, adapter.name, adapter)

    @_one_thing
    def add_task(self, task: type[Task]) -> None:
        """Add a task class under its `name`."""
        self._check_class("task", task, Task)
        self._add("task", self._tasks, task.name, task)

    @_one_thing
    def add_checkpoint(self, name: str, folder: Path | str, query_encoder: Path | str | None = None) -> None:
        """Add a trained model under a name; the folder of its two-tower model comes along where it has one."""
        folders = [Path(folder), *([] if query_encoder is None else [Path(query_encoder)])]
        for one in folders:
            if not (one / "config.json").is_file():
                raise PluginError(f"{self._current} adds the checkpoint '{name}', but {one} has no config.json")
        self._add("checkpoint", self._checkpoints, name, Checkpoint(name, *folders))

    def register(self, plugin: object, name: str, origin: str = BY_HAND) -> None:
        """Register a plugin: a module or any object with hook implementations.

        Everything it brings is added, or nothing.

        Raises:
            PluginError: if a hook is misspelt, a name is taken, or something it adds is not valid.
        """
        self._register(plugin, name, origin)
        self._plugins.append(Plugin(name, origin))

    def _register(self, plugin: object, name: str, origin: str) -> None:
        for other in self._plugins:
            if other.name == name and other.error is None:
                raise PluginError(
                    f"two plugins are named '{name}': one of {other.origin} and one of {origin}; uninstall one of them"
                )
        with self._all_or_nothing(f"{name} ({origin})"):
            try:
                self._manager.register(plugin, name)
                self._manager.check_pending()
            except pluggy.PluginValidationError as error:
                known = [name for name, hook in vars(hookspecs).items() if hasattr(hook, PROJECT_SPEC)]
                raise PluginError(
                    f"plugin '{name}' ({origin}) implements a hook that does not fit: {error}. Hooks: {listing(known)}"
                ) from None
            except ValueError as error:
                raise PluginError(f"plugin '{name}' ({origin}) cannot be registered: {error}") from None
            others = self._manager.get_plugins() - {plugin}
            for hook in HOOKS:
                try:
                    self._manager.subset_hook_caller(hook, others)(registry=self)
                # A stranger's hook can raise anything, and even exit; what it added before is there.
                except (Exception, SystemExit) as error:
                    if self._left_out is None:
                        raise
                    self._left_out.append(f"the rest of {hook} of {self._current}, which raised {_said(error)}")

    def load_entry_points(self) -> None:
        """Register every installed plugin, one by one.

        A plugin that fails to load is recorded with its reason, and the others go on. Something that is not valid
        costs a plugin that thing alone, which is recorded likewise. Of two things of one name neither is there: nobody
        could tell which was meant.
        """
        points = metadata.entry_points(group=ENTRY_POINTS)
        for point in sorted(points, key=lambda p: (p.name, p.value)):
            origin = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
            self._left_out = []
            try:
                self._register(point.load(), point.name, origin)
                self._plugins.append(Plugin(point.name, origin, left_out=tuple(self._left_out)))
            # A stranger's module can raise anything, and even exit; it must not take the others down.
            except (Exception, SystemExit) as error:
                self._plugins.append(Plugin(point.name, origin, _said(error)))
            finally:
                self._left_out = None

    @contextmanager
    def _all_or_nothing(self, current: str) -> Iterator[None]:
        tables: list[dict[Any, Any]] = [
            self._strategies,
            self._composers,
            self._recipes,
            self._geometries,
            self._adapters,
            self._tasks,
            self._checkpoints,
            self._origins,
            self._ambiguous,
        ]
        before: list[dict[Any, Any]] = [dict(table) for table in tables]
        plugins = self._manager.get_plugins()
        self._current = current
        try:
            yield
        except BaseException:
            for table, content in zip(tables, before, strict=True):
                table.clear()
                table.update(content)
            for plugin in self._manager.get_plugins() - plugins:
                self._manager.unregister(plugin)
            raise
        finally:
            self._current = BY_HAND

    def _add(self, kind: str, table: dict[str, T], name: str, value: T) -> None:
        if name in table or (kind, name) in self._ambiguous:
            raise PluginError(
                f"two plugins bring a {kind} named '{name}': {self.origin(kind, name)} and {self._current}; "
                f"{self._refuse(kind, name, table)}uninstall one of them, or rename it"
            )
        table[name] = value
        self._origins[(kind, name)] = self._current

    def _refuse_twin(self, kind: str, name: str, other: str, twin: str, table: dict[str, Any], what: str) -> None:
        """Refuse something that a formula could not tell from something else, which is in the table by its name."""
        if twin in table or (twin and (other, twin) in self._ambiguous):
            raise PluginError(
                f"{kind} '{name}' of {self._current} {what} the {other} '{twin}' of {self.origin(other, twin)}; "
                f"{self._refuse(other, twin, table)}uninstall one of them, or name it otherwise"
            )

    def _refuse(self, kind: str, name: str, table: dict[str, Any]) -> str:
        """Take away what another installed plugin brought under a name, and say so; the framework's own stays."""
        if self._left_out is None or self.origin(kind, name) == OWN:
            return ""
        table.pop(name, None)
        self._ambiguous[(kind, name)] = None
        return "neither can be used: "

    def _file(self, kind: str, path: Traversable | str, suffixes: tuple[str, ...]) -> tuple[Traversable, str]:
        """Return a file that a plugin adds, and its stem, by which it is known."""
        file = Path(path) if isinstance(path, str) else path
        name, _, suffix = file.name.rpartition(".")
        said = f"{self._current} adds the {kind} {file}"
        if not file.is_file():
            there = "is a folder; add the files in it" if file.is_dir() else f"does not exist{_NOT_IN_A_WHEEL}"
            raise PluginError(f"{said}, which {there}")
        if suffix not in suffixes or not name:
            raise PluginError(f"{said}, which is no .{suffixes[0]} file")
        if "." in name:
            raise PluginError(f"{said}; a name with a dot ('{name}') would be read as a path")
        return file, name

    def _check_class(self, kind: str, value: object, base: type) -> None:
        if not (isinstance(value, type) and issubclass(value, base)):
            raise PluginError(f"{self._current} adds {value!r} as {kind}, which is no subclass of {base.__name__}")
        if inspect.isabstract(value):
            missing = listing(getattr(value, "__abstractmethods__", ()))
            raise PluginError(f"{kind} {value.__name__} of {self._current} does not implement {missing}")
        found = problem(value)
        if found is not None:
            raise PluginError(f"{kind} {value.__name__} of {self._current} {found}")

    def _unknown(
        self, error: type[UnknownNameError], kind: str, name: str, table: Mapping[str, object]
    ) -> UnknownNameError:
        return error(
            f"no {kind} is named '{name}'. Registered: {listing(table)}."
            f"{did_you_mean(name, table)}{broken(self._plugins)}"
        )


PROJECT_SPEC = f"{hookspecs.PROJECT}_spec"


def default_registry() -> Registry:
    """Return a new registry of everything installed.

    Its `plugins` say which did not load and what was left out of others, with the reasons: among these are names that
    two plugins bring, of which neither is there.
    """
    registry = Registry()
    registry.load_entry_points()
    return registry
