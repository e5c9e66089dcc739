"""Rules of a recipe as a whole: the order of stages, names, ties and budgets.

`Recipe` and `RecipeReader` apply the same rules, so that a recipe made in Python fails like one from a file.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from tokensieve.algebra.budget import Keep
from tokensieve.composers.expression import Expression
from tokensieve.errors import (
    BudgetError,
)
from tokensieve.plugins.plugin import usable
from tokensieve.recipes import yaml_lines
from tokensieve.recipes.formulas import distinct_strategies, format_formula, strategy_names, strip_outer_parentheses
from tokensieve.sites import Site
from tokensieve.stage import Stage
from tokensieve.strategy import Appraiser, Chooser, Strategy

BUDGETS_EXAMPLE = "{192: [300, 200, 110]}"


def read_budget_list(number: object, entry: object) -> tuple[Keep, ...]:
    """Read one entry of `budgets`: the number that names it, and the list with a budget for each stage.

    Raises:
        BudgetError: if it is not such an entry.
    """
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise BudgetError(f"budgets are named by counts, as in {BUDGETS_EXAMPLE}; {number!r} is none")
    if not isinstance(entry, (list, tuple)):
        raise BudgetError(
            f"budget {number} is a list with a budget for each stage, as in {BUDGETS_EXAMPLE}, not {entry!r}"
        )
    return tuple(Keep.of(value) for value in entry)


def find_problem(
    strategies: Mapping[str, Strategy], stages: Sequence[Stage], budgets: Mapping[int, Sequence[Keep]]
) -> tuple[yaml_lines.Path, str] | None:
    """Return the first problem of a recipe as a whole: its path in the recipe and a message; None if there is none."""
    if not stages:
        return ("stages",), "a recipe has at least one stage"
    for i, (before, after) in enumerate(itertools.pairwise(stages), start=1):
        problem = find_order_problem(before.at, after.at)
        if problem is not None:
            return ("stages", i, "at"), problem
    names = strategy_names(strategies, stages)
    leaves = distinct_strategies(stages)
    for name, strategy in strategies.items():
        path = ("strategies", name)
        if not usable(name):
            return path, unusable_name_message(name)
        if strategy not in leaves:
            return path, f"'{name}' stands under strategies, but no formula uses it; use it or remove it"
        if names[strategy] != name:
            return path, f"'{name}' is the same strategy with the same settings as '{names[strategy]}'; use one of them"
    for i, stage in enumerate(stages):
        if stage.by is not None and not stage.by.is_nested:
            formula = format_formula(stage.by, names)
            return ("stages", i, "by"), (
                f"by: '{strip_outer_parentheses(formula)}' chooses another set for every budget, "
                "which is no order to break ties by"
            )
        if stage.keep.auto and not isinstance(stage.select, Chooser):
            formula = format_formula(stage.select, names)
            return ("stages", i, "keep"), (
                f"keep: auto at {stage.at} is the size of a lone Chooser's own set; "
                f"'{strip_outer_parentheses(formula)}' is none, so give a budget"
            )
        found = _demand_problem(stage, names)
        if found is not None:
            return ("stages", i, found[0]), found[1]
        if stage.keep.mean and stage.over == "task" and i:
            return ("stages", i, "over"), (
                f"over: task at {stage.at} asks what all samples need before anything is cut, so it is for the first "
                f"stage, and {stages[0].at} comes before it; write over: batch or sample"
            )
    for number, keeps in budgets.items():
        if len(stages) == 1:
            return ("budgets",), "budgets is for recipes of several stages; the budget of one stage is what keep says"
        if len(keeps) != len(stages):
            sites = ", ".join(str(stage.at) for stage in stages)
            return ("budgets", number), f"budget {number} has {len(keeps)} entries for {len(stages)} stages ({sites})"
        if any(keep.auto for keep in keeps):
            return ("budgets", number), f"budget {number} has auto for an entry; give numbers"
        if any(keep.mean for keep in keeps):
            return ("budgets", number), (
                f"budget {number} has a mean for an entry; give numbers, which a stage with a demand reads as means"
            )
    return None


def _demand_problem(stage: Stage, names: Mapping[Expression, str]) -> tuple[str, str] | None:
    """Return what is wrong with a stage's mean or its demand: the key and a message; None if nothing is."""
    if stage.keep.mean and stage.demand is None:
        return "keep", (
            f"keep: {stage.keep} at {stage.at} is a mean, which groups share by what each needs; say by what, such as "
            "demand: diversity"
        )
    if stage.demand is None:
        over = f"over: {stage.over} at {stage.at} says which groups share a mean, but keep: {stage.keep} is none"
        return None if stage.over == "batch" else ("over", over)
    if not isinstance(stage.demand, Appraiser):
        formula = strip_outer_parentheses(format_formula(stage.demand, names))
        return "demand", (
            f"demand: '{formula}' at {stage.at} does not say how much a group needs; name one Appraiser, such as "
            "diversity"
        )
    if not stage.keep.mean:
        return "demand", (
            f"demand at {stage.at} shares a mean between groups, but keep: {stage.keep} is a budget of each group; "
            f"write keep: mean {stage.keep}, or leave out the demand"
            if stage.keep.count is not None or stage.keep.fraction is not None
            else f"demand at {stage.at} shares a mean between groups; a mean is of a count or a fraction"
        )
    if stage.newlines == "keep":
        return "newlines", (
            f"newlines: keep at {stage.at} gives newline tokens places of their own image's budget, which with "
            f"keep: {stage.keep} is not known before; write newlines: judge or drop"
        )
    return None


def find_order_problem(before: Site, after: Site) -> str | None:
    """Return why a stage at the site `after` cannot follow one at `before`; None if it can."""
    if before == after:
        return f"the site {after} stands twice; join both stages into one formula"
    if before < after:
        return None
    return (
        f"stages out of order: {after} comes before {before} in the model; a token once gone "
        "never returns, so list stages from the first site to the deepest"
    )


def unusable_name_message(name: str) -> str:
    """Return the error message for an operand whose name cannot be used in formulas."""
    return f"'{name}' is no name a formula can use; write letters, digits and _, but none of Python's own words"
