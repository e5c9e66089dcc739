"""Loading the recipes that a command line names, with the budget of `--keep` and the changes of `--set`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tokensieve.algebra.budget import Keep
from tokensieve.cli import console
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe
from tokensieve.recipes.source import kind_of


def load_recipes(
    names: Sequence[str], registry: Registry, budgets: Sequence[Keep] | None, settings: Sequence[str] | None = None
) -> list[Recipe]:
    """Return the recipes that a command names.

    Of several recipes, one whose number of stages is another than that of the budgets keeps its own, and a note on
    stderr says so. A setting of an operand changes the recipes that have it, with a note, and any other setting all.

    Args:
        names: names of shipped recipes, paths to YAML, or formulas.
        registry: where they are looked up.
        budgets: those of `--keep`.
        settings: those of `--set`.

    Raises:
        TokensieveError: if a recipe cannot be read, or no recipe takes the budgets or a setting.
    """
    own = _settings_by_recipe(names, settings or (), registry)
    if budgets is None or len(names) == 1:
        return [Recipe.load(name, registry, keep=budgets, settings=own[name]) for name in names]
    kept = [name for name in names if not _takes(name, registry, budgets)]
    if len(kept) == len(names):
        # Its error says how many budgets it takes.
        Recipe.load(names[0], registry, keep=budgets, settings=own[names[0]])
    for name in kept:
        stages, given = len(Recipe.load(name, registry).stages), ",".join(map(str, budgets))
        console.warn(
            f"note: '{name}' keeps its own budget: it has {_number(stages, 'stage')}, and --keep {given} is "
            f"{_number(len(budgets), 'budget')}"
        )
    return [Recipe.load(name, registry, keep=None if name in kept else budgets, settings=own[name]) for name in names]


def _number(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _takes(name: str, registry: Registry, budgets: Sequence[Keep]) -> bool:
    """Return whether a recipe takes the budgets; a formula has none of its own, so it must."""
    if kind_of(name, registry) == "formula":
        return True
    recipe = Recipe.load(name, registry)
    return len(budgets) == len(recipe.stages) or (len(budgets) == 1 and budgets[0].count in recipe.budgets)


def _settings_by_recipe(names: Sequence[str], settings: Sequence[str], registry: Registry) -> dict[str, list[str]]:
    """Return the settings that change each recipe: those of its operands, those of none of the recipes, and others."""
    own: dict[str, list[str]] = {name: [] for name in names}
    operands = {name: _operands(name, registry) for name in names if settings and len(own) > 1}
    for setting in settings:
        operand = _operand(setting)
        having = [name for name, known in operands.items() if operand in known] or list(own)
        for name in having:
            own[name].append(setting)
        if len(having) < len(own):
            console.warn(f"note: --set {setting} changes {', '.join(map(repr, having))} alone")
    return own


def _operand(setting: str) -> str | None:
    """Return the operand that a setting names, or none: `gsp.quantile=0.5` and `strategies.gsp.quantile=0.5`."""
    steps = setting.partition("=")[0].strip().removeprefix("strategies.").split(".")
    return steps[0] if len(steps) > 1 and steps[0] not in Recipe.model_fields else None


def _operands(name: str, registry: Registry) -> set[str]:
    if kind_of(name, registry) == "formula":
        return set(re.findall(r"\w+", name))
    return set(Recipe.load(name, registry).names().values())
