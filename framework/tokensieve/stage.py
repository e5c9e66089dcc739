"""What one cut is: a site, a composition and a budget."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from tokensieve.algebra.budget import Keep
from tokensieve.composers.expression import Expression
from tokensieve.errors import (
    RecipeError,
)
from tokensieve.evidence import Evidence
from tokensieve.sites import Site

Group = Literal["image", "tile", "frame", "sample"]


class Stage(BaseModel):
    """A cut at a site.

    Attributes:
        at: the site.
        select: the composition.
        keep: how many tokens of each group stay. Written as `r` instead, all but so many, and at most half of
            the group go.
        per: what a group is.
        rest: whether the other tokens vanish or are folded into their most similar kept token.
        by: whose order breaks ties, instead of the composition's own (see `Chain.cut`).
        newlines: what happens to newline and separator tokens: judged like others, always kept
            (within the budget) or always dropped.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    at: Site
    select: Expression
    keep: Keep
    per: Group = "image"
    rest: Literal["drop", "merge"] = "drop"
    by: Expression | None = None
    newlines: Literal["judge", "keep", "drop"] = "judge"

    @property
    def needs(self) -> frozenset[Evidence]:
        """The evidence that selecting reads."""
        return self.select.needs | (self.by.needs if self.by is not None else frozenset())

    @model_validator(mode="before")
    @classmethod
    def _taken(cls, data: object) -> object:
        """Read `r` as a budget."""
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
        """Return the stages of a range of sites, `at="encoder.0..11"`; one stage for one site.

        Args:
            settings: those of a stage; `keep` and `r` may be lists, with one entry for each site.

        Raises:
            RecipeError: if `at` is no site and no range, or a list has another length.
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

    @field_validator("at", mode="before")
    @classmethod
    def _site(cls, value: object) -> Site:
        try:
            return Site.of(value)
        except RecipeError as error:
            raise ValueError(str(error)) from None

    @field_validator("keep", mode="before")
    @classmethod
    def _budget(cls, value: object) -> Keep:
        return Keep.of(value)
