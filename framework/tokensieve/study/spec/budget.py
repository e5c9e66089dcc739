"""A budget of a study."""

from __future__ import annotations

from typing import Any, Self

from pydantic import ConfigDict

from tokensieve.algebra.budget import Keep
from tokensieve.composers.settings import Value
from tokensieve.errors import BudgetError

OWN = "own"
"""The budget of a study that stands for a recipe's own budgets."""


class Budget(Value):
    """A budget of a study: one for the last stage of a recipe, or one for each of its stages.

    Attributes:
        keeps: the budgets of the stages, as in a recipe; empty if the recipe keeps its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    keeps: tuple[Keep, ...]

    @classmethod
    def of(cls, value: object) -> Self:
        """Read a budget: a count, a fraction, a list with one for each stage, or `own`.

        Raises:
            BudgetError: if the value is no budget.
        """
        if value == OWN:
            return cls(keeps=())
        values = value if isinstance(value, (list, tuple)) else [value]
        keeps = tuple(Keep.of(one) for one in values)
        if not keeps or any(keep.auto for keep in keeps):
            raise BudgetError(f"a study's budget is a number of tokens or a fraction, or `{OWN}`: a recipe's own")
        if means := [str(keep.each) for keep in keeps if keep.mean]:
            raise BudgetError(
                f"a study's budget is that of all its recipes, so write {', '.join(means)}; a recipe whose stage has a "
                "demand meets it in the mean"
            )
        return cls(keeps=keeps)

    def to_data(self) -> Any:
        """Return the budget as plain data for YAML."""
        data = [keep.written() for keep in self.keeps]
        return OWN if not data else data[0] if len(data) == 1 else data

    def __str__(self) -> str:
        return ", ".join(map(str, self.keeps)) or OWN


def own_budgets(value: object) -> object:
    """Return the budgets of a value, or none if there is no value.

    Raises:
        BudgetError: if a value is no budget.
    """
    return value if value is None else budgets_of(value)


def budgets_of(value: object) -> tuple[Budget, ...]:
    """Return the budgets of a value: of a list, one for each entry.

    Raises:
        BudgetError: if a value is no budget.
    """
    values = value if isinstance(value, (list, tuple)) else [value]
    return tuple(one if isinstance(one, Budget) else Budget.of(one) for one in values)
