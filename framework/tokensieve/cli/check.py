"""The command `check`: a recipe's plan, and what a review found."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import typer
from rich.console import RenderableType
from rich.table import Table

from tokensieve.cli import console
from tokensieve.cli.console import cell
from tokensieve.cli.options import (
    Budget,
    OptionalModel,
    PluginFiles,
    RecipeName,
    RecipeSettings,
    open_registry,
    parse_budgets,
)

if TYPE_CHECKING:
    from tokensieve.models.adapter import Adapter
    from tokensieve.recipes.findings import Finding
    from tokensieve.recipes.recipe import Recipe
    from tokensieve.stage import Stage

LEVELS = ("error", "warning", "note")
"""The levels of findings, the worst first."""


def check(
    recipe: RecipeName,
    model: OptionalModel = None,
    keep: Budget = None,
    settings: RecipeSettings = None,
    plugin: PluginFiles = None,
) -> None:
    """Review a recipe before it runs: its plan, and what is wrong with it."""
    from tokensieve.recipes.recipe import Recipe
    from tokensieve.recipes.review import review

    registry = open_registry(plugin)
    loaded = Recipe.load(recipe, registry, keep=parse_budgets(keep), settings=settings or ())
    adapter = None
    if model is not None:
        from tokensieve.checkpoints.loading import checkpoint_named, load_adapter

        adapter = load_adapter(checkpoint_named(model, registry), registry)
    found = review(loaded, adapter)
    for table in plan_tables(loaded, adapter):
        console.show(table)
    for line in finding_lines(found):
        console.echo(line)
    console.echo(count_findings(found))
    raise typer.Exit(1 if any(finding.level != "note" for finding in found) else 0)


def plan_tables(recipe: Recipe, adapter: Adapter | None) -> Iterator[RenderableType]:
    """Return what a recipe will do, stage by stage, with the settings of every operand."""
    head = Table.grid(padding=(0, 2))
    head.add_column(no_wrap=True)
    head.add_column(overflow="fold")
    facts = [("recipe", f"{recipe.name}  ({recipe.hash()})"), ("positions", recipe.positions)]
    if recipe.paper:
        facts.insert(1, ("paper", recipe.paper))
    if recipe.budgets:
        facts.append(("budgets", ", ".join(map(str, recipe.budgets))))
    if adapter is not None:
        facts.append(("model", f"{type(adapter.model).__name__}, adapter {adapter.name}"))
    for fact in facts:
        head.add_row(*map(cell, fact))
    yield head
    yield _stages(recipe)
    yield _operands(recipe)
    if adapter is not None:
        yield _evidence(adapter)


def _evidence(adapter: Adapter) -> Table:
    """Return a table of the evidence at the model's sites, one row for neighbours with the same evidence."""
    table = Table("sites of the model", "evidence")
    for (_, kinds), sites in itertools.groupby(adapter.sites(), lambda site: (site.part, adapter.offers(site))):
        first, *rest = sites
        at = f"{first}..{rest[-1].block}" if rest else str(first)
        table.add_row(cell(at), cell(", ".join(sorted(kinds))))
    return table


def _stages(recipe: Recipe) -> Table:
    table = Table()
    for number, column in enumerate(("at", "select", "keep", "needs")):
        table.add_column(column, no_wrap=number in (0, 3), overflow="fold")
    for (at, stage), entry in zip(recipe.ranges(), recipe.to_dict()["stages"], strict=True):
        select = str(entry["select"]) + (f"\nties by {entry['by']}" if "by" in entry else "")
        needs = "\n".join(sorted(stage.needs)) or "nothing"
        table.add_row(cell(at), cell(select), cell(_budget(stage)), cell(needs))
    return table


def _budget(stage: Stage) -> str:
    lines = [f"{stage.keep} per {stage.per}", f"{stage.rest} the rest"]
    if stage.demand is not None:
        over = "all of a task" if stage.over == "task" else f"each {stage.over}"
        lines.insert(1, f"over {over}, by {getattr(stage.demand, 'name', 'its demand')}")
    if stage.newlines != "judge":
        lines.append(f"{stage.newlines} newlines")
    return "\n".join(lines)


def _operands(recipe: Recipe) -> Table:
    from tokensieve.strategy import Strategy

    table = Table()
    for column in ("operand", "strategy", "settings"):
        table.add_column(column, overflow="fold")
    for leaf, name in recipe.names().items():
        if isinstance(leaf, Strategy):
            settings = leaf.model_dump(mode="json")
            table.add_row(
                cell(name), cell(leaf.name), cell(", ".join(f"{key}={value}" for key, value in settings.items()))
            )
    return table


def finding_lines(findings: Iterable[Finding]) -> list[str]:
    """Return a line for each finding, the worst first."""
    return [str(finding) for finding in sorted(findings, key=lambda finding: LEVELS.index(finding.level))]


def count_findings(findings: Sequence[Finding]) -> str:
    """Return how many findings of each level there are, as text."""
    counts = []
    for level in LEVELS:
        number = sum(finding.level == level for finding in findings)
        if number:
            counts.append(f"{number} {level}{'s' if number > 1 else ''}")
    return ", ".join(counts) or "no findings"
