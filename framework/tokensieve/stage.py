"""`Stage`: one cut of a recipe, with its site, its formula and its budget."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from pydantic import ConfigDict, ValidationError, field_validator, model_validator

from tokensieve.algebra.budget import Keep
from tokensieve.composers.expression import Expression
from tokensieve.composers.settings import Value, error_class, unknown_setting
from tokensieve.errors import BudgetError, RecipeError, TokensieveError, first_mistake
from tokensieve.evidence import Evidence
from tokensieve.sites import Site

Group = Literal["image", "tile", "frame", "sample"]
"""Within what a budget is counted."""


class Stage(Value):
    """One cut of a recipe: at a site, a formula selects tokens, and a budget says how many stay.

    Attributes:
        at: the site.
        select: the formula, as an expression.
        keep: how many tokens of each group stay. With `r` in place of `keep`, `r` tokens are removed, at most half of
            the group.
        per: what a group is.
        rest: whether the other tokens are dropped, or merged into their most similar kept token.
        by: the expression whose order breaks ties, instead of the formula's own order (see `Chain.cut`).
        demand: what says how much each group needs, where `keep` is a mean that groups meet together.
        over: which groups these are: those of a `sample`, those of a whole `batch`, which is one call of the model, or
            those of all samples of a `task`, which a study asks for what they need first.
        newlines: whether newline and separator tokens are selected like all others (`judge`), always kept within the
            budget (`keep`), or always dropped (`drop`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    at: Site
    select: Expression
    keep: Keep
    per: Group = "image"
    rest: Literal["drop", "merge"] = "drop"
    by: Expression | None = None
    newlines: Literal["judge", "keep", "drop"] = "judge"
    demand: Expression | None = None
    over: Literal["batch", "sample", "task"] = "batch"

    @property
    def needs(self) -> frozenset[Evidence]:
        """The evidence that the formula, the tie-breaker and the demand need."""
        others = [part.needs for part in (self.by, self.demand) if part is not None]
        return self.select.needs.union(*others)

    def with_keep(self, keep: object) -> Stage:
        """Return the stage with another budget; a stage with a demand reads it as a mean.

        Raises:
            BudgetError: if it is no budget, or a mean for a stage without a demand.
        """
        budget = Keep.of(keep)
        if self.demand is not None and not budget.mean:
            budget = dataclasses.replace(budget, mean=True)
        if self.demand is None and budget.mean:
            raise BudgetError(f"keep {budget} at {self.at}: the stage has no demand to share a mean by")
        return self.model_copy(update={"keep": budget})

    @model_validator(mode="before")
    @classmethod
    def _read_r(cls, data: object) -> object:
        """Replace `r` by the budget that it stands for."""
        if not isinstance(data, dict) or "r" not in data:
            return data
        rest = {key: value for key, value in data.items() if key != "r"}
        if rest.get("keep") is not None:
            raise ValueError("a stage has keep, how many tokens stay, or r, how many go; not both")
        if isinstance(data["r"], bool) or not isinstance(data["r"], int):
            raise ValueError(f"r is how many tokens go, a whole number, not {data['r']!r}")
        return {**rest, "keep": Keep(less=data["r"])}

    @classmethod
    def each(cls, **settings: Any) -> tuple[Stage, ...]:
        """Return one stage for each site of a range, such as `at="encoder.0..11"`; a single one for a single site.

        Args:
            settings: the fields of a stage; `keep` and `r` may be lists with one entry for each site.

        Raises:
            RecipeError: if `at` is neither a site nor a range, or a list has another length.
        """
        sites = Site.each(settings.get("at"))
        ranged = ".." in str(settings["at"])
        lists = {key: settings[key] for key in ("keep", "r") if ranged and isinstance(settings.get(key), (list, tuple))}
        for key, values in lists.items():
            if len(values) != len(sites):
                raise RecipeError(
                    f"{key} lists {len(values)} numbers for {len(sites)} sites ({settings['at']}); give one for each, "
                    "or one for all"
                )
        return tuple(
            cls.model_validate(settings | {"at": site} | {key: values[i] for key, values in lists.items()})
            for i, site in enumerate(sites)
        )

    @classmethod
    def refused(cls, error: ValidationError) -> TokensieveError:
        """Return the error for fields that are wrong."""
        return error_class(error)(unknown_setting("a stage", cls.model_fields, error) or first_mistake(error))

    def _changed_copy(self) -> str:
        return "it does not change; recipe.replace(keep=...) makes a recipe with another budget"

    @field_validator("select", "by", "demand", mode="before")
    @classmethod
    def _read_expression(cls, value: object) -> object:
        if isinstance(value, type):
            raise ValueError(f"{value.__name__} is a class, and a stage takes an instance; write {value.__name__}()")
        if isinstance(value, str):
            raise ValueError(
                f"{value!r} is text, and a stage takes strategies and formulas of them, such as GSP() & QCSP(); "
                "Recipe.load and Recipe.loads read text"
            )
        return value

    @field_validator("at", mode="before")
    @classmethod
    def _read_site(cls, value: object) -> Site:
        try:
            return Site.of(value)
        except RecipeError as error:
            raise ValueError(str(error)) from None

    @field_validator("keep", mode="before")
    @classmethod
    def _read_budget(cls, value: object) -> Keep:
        return Keep.of(value)
