"""How formulas and budgets of a recipe are written."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from tokensieve.composers.expression import Expression
from tokensieve.stage import Stage
from tokensieve.strategy import Strategy


def strategies_of(stages: Sequence[Stage]) -> dict[Expression, None]:
    """Return the distinct strategies of all formulas, in the order they are written."""
    formulas = [formula for stage in stages for formula in (stage.select, stage.by) if formula is not None]
    return dict.fromkeys(leaf for formula in formulas for leaf in formula.strategies())


def strategy_names(strategies: Mapping[str, Strategy], stages: Sequence[Stage]) -> dict[Expression, str]:
    """Return the name of every strategy: the one it has, or one made up."""
    names: dict[Expression, str] = {}
    for name, strategy in strategies.items():
        names.setdefault(strategy, name)
    taken = set(strategies)
    for leaf in strategies_of(stages):
        if leaf not in names and isinstance(leaf, Strategy):
            free = itertools.chain([leaf.name], (f"{leaf.name}_{i}" for i in itertools.count(2)))
            names[leaf] = next(name for name in free if name not in taken)
            taken.add(names[leaf])
    return names


def write_formula(expression: Expression, names: Mapping[Expression, str]) -> str:
    """Return the formula of an expression whose strategies have these names."""
    return expression.written(lambda leaf: names.get(leaf, repr(leaf)))


def budget_of(entry: Mapping[str, Any]) -> str:
    """Say the budget of a stage of `to_dict`."""
    return f"r {entry['r']}" if "r" in entry else str(entry["keep"])


def without_parentheses(formula: str) -> str:
    """Leave out parentheses around the whole formula."""
    if not (formula.startswith("(") and formula.endswith(")")):
        return formula
    depth = 0
    for place, sign in enumerate(formula):
        depth += (sign == "(") - (sign == ")")
        if depth == 0:
            return formula[1:-1] if place == len(formula) - 1 else formula
    return formula
