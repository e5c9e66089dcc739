"""The hooks: the whole contract between tokensieve and its plugins.

A plugin is a module named by an entry point of the group `tokensieve`. It implements any of these
with `@tokensieve.hookimpl`. The built-in strategies and adapters enter by the same door.
"""

from __future__ import annotations

from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Protocol

import pluggy

from tokensieve.composers.expression import Composer
from tokensieve.models.adapter import Adapter
from tokensieve.strategy import Strategy
from tokensieve.tasks.base import Task

PROJECT = "tokensieve"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Registrar(Protocol):
    """What a plugin adds to: the part of `tokensieve.Registry` that is for plugins."""

    def add_strategy(self, strategy: type[Strategy]) -> None:
        """Add a strategy class under its `name`."""

    def add_composer(self, composer: type[Composer]) -> None:
        """Add a composer class under its `name`."""

    def add_recipe(self, path: Traversable | str) -> None:
        """Add a recipe file; its stem is its name."""

    def add_geometry(self, path: Traversable | str) -> None:
        """Add the JSON file of a real model's geometry; its stem is its name."""

    def add_adapter(self, adapter: type[Adapter]) -> None:
        """Add an adapter class under its `name`."""

    def add_task(self, task: type[Task]) -> None:
        """Add a task class under its `name`."""

    def add_checkpoint(self, name: str, folder: Path | str, query_encoder: Path | str | None = None) -> None:
        """Add a trained model under a name."""


@hookspec
def register_strategies(registry: Registrar) -> None:
    """Call `registry.add_strategy(cls)` for every strategy."""


@hookspec
def register_composers(registry: Registrar) -> None:
    """Call `registry.add_composer(cls)` for every composer."""


@hookspec
def register_recipes(registry: Registrar) -> None:
    """Call `registry.add_recipe(path)` for every shipped recipe; its stem is its name."""


@hookspec
def register_adapters(registry: Registrar) -> None:
    """Call `registry.add_adapter(cls)` for every model family."""


@hookspec
def register_tasks(registry: Registrar) -> None:
    """Call `registry.add_task(cls)` for every task, and `registry.add_checkpoint(...)` for models made for it."""


# The ledger is built on recipes, and recipes on plugins: its types are named in words here.
@hookspec
def stage_settled(run: Any, stage: Any) -> None:
    """Look at a stage that has just been selected.

    Args:
        run: the `tokensieve.Run` that the stage belongs to.
        stage: its `tokensieve.ledger.StageRecord`.
    """


# The study is built on plugins, too.
@hookspec
def cell_finished(study: str, cell: Any, rows: Any) -> None:
    """Look at a finished cell of a study, in the process that runs the study.

    It is called for the cells that were finished before, and then for each when its results are stored.

    Args:
        study: the study's name.
        cell: the `tokensieve.study.rows.Cell`.
        rows: its `tokensieve.study.rows.Row`s, one for each sample.
    """
