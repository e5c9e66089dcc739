"""The command `plugins`: what is installed, and which plugin brings it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources.abc import Traversable

import typer
from pydantic import ValidationError
from rich.table import Table

from tokensieve.cli import console
from tokensieve.cli.console import cell
from tokensieve.cli.options import PluginFiles, open_registry
from tokensieve.cli.tables import adapters_table, first_paragraph, titled_table
from tokensieve.errors import TokensieveError
from tokensieve.plugins.plugin import Plugin
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.formulas import format_budget
from tokensieve.recipes.recipe import Recipe
from tokensieve.strategy import Chooser, Merger, Ranker, Scorer, Strategy
from tokensieve.tasks.base import Task

KINDS = (Merger, Ranker, Chooser, Scorer)


def plugins(plugin: PluginFiles = None) -> None:
    """List plugins, and all that they bring: strategies, recipes, adapters, tasks and so on."""
    registry = open_registry(plugin)
    for table in plugin_tables(registry):
        console.show(table)
        console.echo()
    errors = list(plugin_errors(registry))
    for error in errors:
        console.echo(f"error: {error}")
    raise typer.Exit(1 if errors else 0)


def plugin_errors(registry: Registry) -> Iterator[str]:
    """Return a sentence about every plugin that did not load, and about every thing that was left out of one."""
    for plugin in registry.plugins:
        if plugin.error:
            yield f"the plugin '{plugin.name}' ({plugin.origin}) did not load: {plugin.error}"
        for left_out in plugin.left_out:
            yield f"not added: {left_out}"


def plugin_tables(registry: Registry) -> Iterator[Table]:
    """Return a table each of plugins, strategies, composers, recipes, adapters, tasks and checkpoints."""
    yield _plugins(registry)
    yield _strategies(registry)
    yield _composers(registry)
    yield _recipes(registry)
    yield adapters_table(registry)
    yield _tasks(registry)
    yield _checkpoints(registry)


def _plugins(registry: Registry) -> Table:
    table = titled_table(f"Plugins ({len(registry.plugins)})", "name", "distribution", "brings")
    for plugin in registry.plugins:
        style = "red" if plugin.error else ""
        brings = f"did not load: {plugin.error}" if plugin.error else _counts(registry, plugin)
        table.add_row(cell(plugin.name, style), cell(plugin.origin), cell(brings, style))
    return table


def _counts(registry: Registry, plugin: Plugin) -> str:
    """Return how many strategies, composers and so on a plugin brings."""
    own = f"{plugin.name} ({plugin.origin})"
    counts = []
    for kind, plural, names in (
        ("strategy", "strategies", registry.strategies),
        ("composer", "composers", registry.composers),
        ("recipe", "recipes", registry.recipes),
        ("adapter", "adapters", registry.adapters),
        ("task", "tasks", registry.tasks),
        ("checkpoint", "checkpoints", registry.checkpoints),
    ):
        number = sum(registry.origin(kind, name) == own for name in names)
        if number:
            counts.append(f"{number} {kind if number == 1 else plural}")
    return ", ".join(counts) or "nothing but hooks"


def _strategies(registry: Registry) -> Table:
    table = titled_table(f"Strategies ({len(registry.strategies)})", "name", "kind", "needs", "what it does", no_wrap=3)
    for name, strategy in sorted(registry.strategies.items()):
        text = first_paragraph(strategy) + (f"\n{strategy.paper}" if strategy.paper else "")
        table.add_row(cell(name), cell(_kind(strategy)), cell(_needs(strategy)), cell(text))
    return table


def _kind(strategy: type[Strategy]) -> str:
    """Return the kind of a strategy, such as `Scorer`."""
    return next((kind.__name__ for kind in KINDS if issubclass(strategy, kind)), "Strategy")


def _needs(strategy: type[Strategy]) -> str:
    """Return the evidence that a strategy needs, with its default settings or else with its first example."""
    for settings in ({}, *strategy.examples[:1]):
        try:
            return "\n".join(sorted(strategy(**settings).needs)) or "nothing"
        except ValidationError:
            continue
    return "by its settings"


def _composers(registry: Registry) -> Table:
    table = titled_table(f"Composers ({len(registry.composers)})", "name", "sign", "what it does", no_wrap=2)
    for name, composer in sorted(registry.composers.items()):
        table.add_row(cell(name), cell(composer.symbol or ""), cell(first_paragraph(composer)))
    return table


def _recipes(registry: Registry) -> Table:
    table = titled_table(f"Recipes ({len(registry.recipes)})", "name", "at", "keep", "select", no_wrap=3)
    for name, file in sorted(registry.recipes.items()):
        table.add_row(cell(name), *(cell(text) for text in _recipe(name, file, registry)))
    return table


def _recipe(name: str, file: Traversable, registry: Registry) -> tuple[str, ...]:
    try:
        recipe = Recipe.loads(file.read_text(encoding="utf-8"), registry, source=name)
    except (OSError, TokensieveError) as error:
        return "", "", f"cannot be read: {error}"
    entries = recipe.to_dict()["stages"]
    select = [str(entry["select"]) for entry in entries]
    return (
        "\n".join(entry["at"] for entry in entries),
        "\n".join(format_budget(entry) for entry in entries),
        "\n".join([*select, recipe.paper] if recipe.paper else select),
    )


def _tasks(registry: Registry) -> Table:
    table = titled_table(f"Tasks ({len(registry.tasks)})", "name", "metric", "what it asks", no_wrap=2)
    for name, task in sorted(registry.tasks.items()):
        table.add_row(cell(name), cell(_default_metric(task)), cell(first_paragraph(task)))
    return table


def _default_metric(task: type[Task]) -> str:
    field = task.model_fields.get("metric")
    return str(getattr(task, "metric", "") if field is None else field.default)


def _checkpoints(registry: Registry) -> Table:
    table = titled_table(f"Checkpoints ({len(registry.checkpoints)})", "name", "query encoder", "folder", no_wrap=2)
    for name, checkpoint in sorted(registry.checkpoints.items()):
        encoder = "none" if checkpoint.query_encoder is None else checkpoint.query_encoder.name
        table.add_row(cell(name), cell(encoder), cell(str(checkpoint.folder)))
    return table
