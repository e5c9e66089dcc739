"""What the command `plugins` prints: tables of all there is, and cards of what has a name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from importlib.resources.abc import Traversable
from typing import Any

from rich.table import Table

from tokensieve.cli import console
from tokensieve.cli.console import cell
from tokensieve.cli.tables import adapters_table, titled_table
from tokensieve.errors import TokensieveError
from tokensieve.plugins.kinds import PLURALS, by_kind
from tokensieve.plugins.parameters import sentence
from tokensieve.plugins.plugin import Plugin
from tokensieve.plugins.registry import Registry
from tokensieve.plugins.rivals import rivals_by_type
from tokensieve.recipes.cards import Card, kind_of_strategy, needs_of, recipe_sentence
from tokensieve.recipes.formulas import format_budget
from tokensieve.recipes.recipe import Recipe
from tokensieve.strategy import Strategy
from tokensieve.tasks.base import Task


def print_card(card: Card) -> None:
    """Print what is known of something: a sentence, its facts, and its parameters."""
    console.echo(f"{card.kind} {card.name}, from {card.origin}")
    console.echo(card.what)
    facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for about, text in card.facts.items():
        facts.add_row(cell(about), cell(text))
    console.show(facts)
    if card.parameters:
        table = titled_table("Parameters", "name", "values", "default", "meaning")
        for one in card.parameters:
            default = "required" if one.default is None else one.default
            table.add_row(cell(one.name), cell(one.values), cell(default), cell(one.meaning))
        console.show(table)
    console.echo()


def listed(registry: Registry) -> dict[str, Any]:
    """Return plugins and the names of what there is, for JSON."""
    return {"plugins": [asdict(one) for one in registry.plugins]} | {
        PLURALS[kind]: sorted(table) for kind, table in by_kind(registry).items()
    }


def plugin_errors(registry: Registry) -> Iterator[str]:
    """Return a sentence about every plugin that did not load, and about every thing that was left out of one."""
    for plugin in registry.plugins:
        if plugin.error:
            yield f"the plugin '{plugin.name}' ({plugin.origin}) did not load: {plugin.error}"
        for left_out in plugin.left_out:
            yield f"not added: {left_out}"
    yield from rivals_by_type(registry.adapters.values(), registry.origin)


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
    for kind, names in by_kind(registry).items():
        number = sum(registry.origin(kind, name) == own for name in names)
        if number:
            counts.append(f"{number} {kind if number == 1 else PLURALS[kind]}")
    return ", ".join(counts) or "nothing but hooks"


def _strategies(registry: Registry) -> Table:
    table = titled_table(f"Strategies ({len(registry.strategies)})", "name, kind", "needs", "what it does", no_wrap=2)
    for name, strategy in sorted(registry.strategies.items()):
        text = sentence(strategy) + (f"\n{strategy.paper}" if strategy.paper else "")
        # Side by side with both, an address would not fit into 80 columns.
        table.add_row(cell(f"{name}\n{kind_of_strategy(strategy)}"), cell(_needs(strategy)), cell(text))
    return table


def _needs(strategy: type[Strategy]) -> str:
    """Return the evidence that a strategy needs, with its default settings or else with its first example."""
    needs = needs_of(strategy)
    return "by its settings" if needs is None else "\n".join(sorted(needs)) or "nothing"


def _composers(registry: Registry) -> Table:
    table = titled_table(f"Composers ({len(registry.composers)})", "name", "sign", "what it does", no_wrap=2)
    for name, composer in sorted(registry.composers.items()):
        table.add_row(cell(name), cell(composer.symbol or ""), cell(sentence(composer)))
    return table


def _recipes(registry: Registry) -> Table:
    table = titled_table(
        f"Recipes ({len(registry.recipes)})", "name", "at", "keep", "select, and what it is", no_wrap=3
    )
    for name, file in sorted(registry.recipes.items()):
        table.add_row(cell(name), *(cell(text) for text in _recipe(name, file, registry)))
    return table


def _recipe(name: str, file: Traversable, registry: Registry) -> tuple[str, ...]:
    try:
        text = file.read_text(encoding="utf-8")
        recipe = Recipe.loads(text, registry, source=name)
    except (OSError, TokensieveError) as error:
        return "", "", f"cannot be read: {error}"
    entries = recipe.to_dict()["stages"]
    select = [str(entry["select"]) for entry in entries]
    return (
        "\n".join(entry["at"] for entry in entries),
        # By what a mean is shared stands in the recipe's own plan.
        "\n".join(format_budget({key: entry[key] for key in ("keep", "r") if key in entry}) for entry in entries),
        "\n".join([*select, recipe_sentence(text), *filter(None, [recipe.paper])]),
    )


def _tasks(registry: Registry) -> Table:
    table = titled_table(f"Tasks ({len(registry.tasks)})", "name", "metric", "what it asks", no_wrap=2)
    for name, task in sorted(registry.tasks.items()):
        table.add_row(cell(name), cell(_default_metric(task)), cell(sentence(task)))
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
