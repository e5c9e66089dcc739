"""What plugins brought, as tables."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib.resources.abc import Traversable

from pydantic import ValidationError
from rich.table import Table

from tokensieve.cli.console import cell
from tokensieve.errors import TokensieveError
from tokensieve.plugins.plugin import Plugin
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.formulas import budget_of
from tokensieve.recipes.recipe import Recipe
from tokensieve.strategy import Chooser, Merger, Ranker, Scorer, Strategy
from tokensieve.tasks.base import Task

KINDS = (Merger, Ranker, Chooser, Scorer)


def catalogue(registry: Registry) -> Iterator[Table]:
    """Return a table each of plugins, strategies, composers, recipes, adapters, tasks and checkpoints."""
    yield _plugins(registry)
    yield _strategies(registry)
    yield _composers(registry)
    yield _recipes(registry)
    yield families(registry)
    yield _tasks(registry)
    yield _checkpoints(registry)


def offers(registry: Registry) -> list[tuple[list[str], str, list[str], list[str]]]:
    """Return what adapters offer to strategies, those alike together.

    Returns:
        Names of adapters, the kind of sites, the evidence at the first one, and what deeper ones add.
    """
    groups: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for name, cls in sorted(registry.adapters.items()):
        if cls.refusal_reason is not None:
            continue
        adapter = cls(cls.tiny())
        for part in ("encoder", "decoder"):
            sites = [site for site in adapter.sites() if site.part == part]
            if sites:
                here, deepest = adapter.offers(sites[0]), adapter.offers(sites[-1])
                key = (f"{part}.K", tuple(sorted(here)), tuple(sorted(deepest - here)))
                groups.setdefault(key, []).append(name)
    found = [(names, sites, list(here), list(deeper)) for (sites, here, deeper), names in groups.items()]
    return sorted(found, key=lambda group: (group[1] != "encoder.K", -len(group[0])))


def offered(registry: Registry) -> Table:
    """Return a table of what adapters offer to strategies."""
    table = _table("Evidence", "sites", "at the first", "deeper also", "adapters", narrow=3)
    for names, sites, here, deeper in offers(registry):
        table.add_row(cell(sites), cell("\n".join(here)), cell("\n".join(deeper)), cell(", ".join(names)))
    return table


def first_line(documented: object) -> str:
    """Return the first sentence of a class's docstring."""
    text = inspect.getdoc(documented) or ""
    return " ".join(text.split("\n\n")[0].split())


def kind_of(strategy: type[Strategy]) -> str:
    """Return what kind of strategy it is."""
    return next((kind.__name__ for kind in KINDS if issubclass(strategy, kind)), "Strategy")


def needs_of(strategy: type[Strategy]) -> str:
    """Return the evidence that a strategy needs, with its defaults or the first of its examples."""
    for settings in ({}, *strategy.examples[:1]):
        try:
            return "\n".join(sorted(strategy(**settings).needs)) or "nothing"
        except ValidationError:
            continue
    return "by its settings"


def _table(title: str, *columns: str, narrow: int = 1) -> Table:
    """Return an empty table whose first `narrow` columns are never wrapped."""
    table = Table(title=title, title_justify="left", title_style="bold", expand=False)
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number < narrow, overflow="fold")
    return table


def _plugins(registry: Registry) -> Table:
    table = _table(f"Plugins ({len(registry.plugins)})", "name", "distribution", "brings")
    for plugin in registry.plugins:
        style = "red" if plugin.error else ""
        brings = f"did not load: {plugin.error}" if plugin.error else _brought(registry, plugin)
        table.add_row(cell(plugin.name, style), cell(plugin.origin), cell(brings, style))
    return table


def _brought(registry: Registry, plugin: Plugin) -> str:
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
    table = _table(f"Strategies ({len(registry.strategies)})", "name", "kind", "needs", "what it does", narrow=3)
    for name, strategy in sorted(registry.strategies.items()):
        what = first_line(strategy) + (f"\n{strategy.paper}" if strategy.paper else "")
        table.add_row(cell(name), cell(kind_of(strategy)), cell(needs_of(strategy)), cell(what))
    return table


def _composers(registry: Registry) -> Table:
    table = _table(f"Composers ({len(registry.composers)})", "name", "sign", "what it does", narrow=2)
    for name, composer in sorted(registry.composers.items()):
        table.add_row(cell(name), cell(composer.symbol or ""), cell(first_line(composer)))
    return table


def _recipes(registry: Registry) -> Table:
    table = _table(f"Recipes ({len(registry.recipes)})", "name", "at", "keep", "select", narrow=3)
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
        "\n".join(budget_of(entry) for entry in entries),
        "\n".join([*select, recipe.paper] if recipe.paper else select),
    )


def families(registry: Registry) -> Table:
    """Return a table of model families."""
    table = _table(f"Adapters ({len(registry.adapters)})", "name", "what it is for")
    for name, adapter in sorted(registry.adapters.items()):
        said = first_line(adapter) + (
            f"\nRefused: {adapter.refusal_reason}." if adapter.refusal_reason is not None else ""
        )
        table.add_row(cell(name), cell(said))
    return table


def _tasks(registry: Registry) -> Table:
    table = _table(f"Tasks ({len(registry.tasks)})", "name", "metric", "what it asks", narrow=2)
    for name, task in sorted(registry.tasks.items()):
        table.add_row(cell(name), cell(_metric(task)), cell(first_line(task)))
    return table


def _metric(task: type[Task]) -> str:
    """Return the metric that a task has by default."""
    field = task.model_fields.get("metric")
    return str(getattr(task, "metric", "") if field is None else field.default)


def _checkpoints(registry: Registry) -> Table:
    table = _table(f"Checkpoints ({len(registry.checkpoints)})", "name", "query encoder", "folder", narrow=2)
    for name, checkpoint in sorted(registry.checkpoints.items()):
        encoder = "none" if checkpoint.query_encoder is None else checkpoint.query_encoder.name
        table.add_row(cell(name), cell(encoder), cell(str(checkpoint.folder)))
    return table
