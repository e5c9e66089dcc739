"""A recipe's plan and what a review found, for reading."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table

from tokensieve.cli.console import cell
from tokensieve.models.adapter import Adapter
from tokensieve.recipes.recipe import Recipe
from tokensieve.recipes.review import Finding
from tokensieve.stage import Stage
from tokensieve.strategy import Strategy

ORDER = {"error": 0, "warning": 1, "note": 2}


def plan(recipe: Recipe, adapter: Adapter | None) -> Iterator[RenderableType]:
    """Return what a recipe will do, stage by stage, with every operand's settings."""
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
        yield _offered(adapter)


def _offered(adapter: Adapter) -> Table:
    """Return what the model offers to strategies at its sites, those alike together."""
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
    if stage.newlines != "judge":
        lines.append(f"{stage.newlines} newlines")
    return "\n".join(lines)


def _operands(recipe: Recipe) -> Table:
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


def findings(found: Iterable[Finding]) -> list[str]:
    """Return a line for each finding, the worst first."""
    return [str(finding) for finding in sorted(found, key=lambda finding: ORDER[finding.level])]


def summary(found: Sequence[Finding]) -> str:
    """Count the findings."""
    counts = []
    for level in ORDER:
        number = sum(finding.level == level for finding in found)
        if number:
            counts.append(f"{number} {level}{'s' if number > 1 else ''}")
    return ", ".join(counts) or "no findings"
