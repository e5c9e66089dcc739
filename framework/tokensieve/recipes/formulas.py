"""Formulas and budgets of a recipe as text, for YAML files, reports and messages."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from tokensieve.composers.expression import Expression
from tokensieve.stage import Stage
from tokensieve.strategy import Strategy


def distinct_strategies(stages: Sequence[Stage]) -> dict[Expression, None]:
    """Return the distinct strategies of all stages, as the keys of a dict, in the order in which they are written."""
    parts = [part for stage in stages for part in (stage.select, stage.by, stage.demand)]
    formulas = [formula for formula in parts if formula is not None]
    return dict.fromkeys(leaf for formula in formulas for leaf in formula.strategies())


def strategy_names(strategies: Mapping[str, Strategy], stages: Sequence[Stage]) -> dict[Expression, str]:
    """Return the name of every strategy in formulas.

    Args:
        strategies: the strategies that the recipe names. The others get their registered name, with a number if it is
            taken.
        stages: the stages whose formulas hold the strategies.
    """
    names: dict[Expression, str] = {}
    for name, strategy in strategies.items():
        names.setdefault(strategy, name)
    taken = set(strategies)
    for leaf in distinct_strategies(stages):
        if leaf not in names and isinstance(leaf, Strategy):
            free = itertools.chain([leaf.name], (f"{leaf.name}_{i}" for i in itertools.count(2)))
            names[leaf] = next(name for name in free if name not in taken)
            taken.add(names[leaf])
    return names


def format_formula(expression: Expression, names: Mapping[Expression, str]) -> str:
    """Return an expression as a formula in which strategies have these names."""
    return expression.written(lambda leaf: names.get(leaf, repr(leaf)))


def format_budget(entry: Mapping[str, Any]) -> str:
    """Return the budget of a stage as text, from its entry in `Recipe.to_dict`."""
    if "demand" in entry:
        over = entry.get("over", "batch")
        return f"{entry['keep']} by {entry['demand']} over {'all of a' if over == 'task' else 'each'} {over}"
    return f"r {entry['r']}" if "r" in entry else str(entry["keep"])


def strip_outer_parentheses(formula: str) -> str:
    """Return a formula without the parentheses around all of it, if there are any."""
    if not (formula.startswith("(") and formula.endswith(")")):
        return formula
    depth = 0
    for place, sign in enumerate(formula):
        depth += (sign == "(") - (sign == ")")
        if depth == 0:
            return formula[1:-1] if place == len(formula) - 1 else formula
    return formula
