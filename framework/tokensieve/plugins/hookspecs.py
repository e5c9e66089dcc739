"""The hooks: the whole contract between tokensieve and its plugins.

A plugin is a module named by an entry point of the group `tokensieve`. It implements any of these
with `@tokensieve.hookimpl`. The built-in strategies and adapters enter by the same door.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from tokensieve.registry import Registry
    from tokensieve.run import Run, StageRecord

PROJECT = "tokensieve"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register_strategies(registry: Registry) -> None:
    """Call `registry.add_strategy(cls)` for every strategy."""


@hookspec
def register_composers(registry: Registry) -> None:
    """Call `registry.add_composer(cls)` for every composer."""


@hookspec
def register_recipes(registry: Registry) -> None:
    """Call `registry.add_recipe(path)` for every shipped recipe; its stem is its name."""


@hookspec
def register_adapters(registry: Registry) -> None:
    """Call `registry.add_adapter(cls)` for every model family."""


@hookspec
def register_tasks(registry: Registry) -> None:
    """Call `registry.add_task(cls)` for every task, and `registry.add_checkpoint(...)` for models made for it."""


@hookspec
def stage_settled(run: Run, stage: StageRecord) -> None:
    """Look at a stage of a run that has just been settled."""
