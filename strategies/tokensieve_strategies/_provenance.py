"""The papers, code and published figures of the strategies, read from `provenance.yaml`."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import yaml
from pydantic import BaseModel, ConfigDict, Field


class _FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Claim(_FrozenModel):
    """A published figure that is in none of the tables.

    Attributes:
        text: the claim.
        source: where it was published.
    """

    text: str
    source: str


class Publication(_FrozenModel):
    """A published method.

    Attributes:
        title: its short name.
        venue: where and when it was published, if known.
        paper: the link to the paper, if known.
        code: the authors' repository, and the commit that we have read.
        licence: the licence of that code.
        claims: other published figures.
    """

    title: str
    venue: str | None = None
    paper: str | None = None
    code: str
    licence: str
    claims: tuple[Claim, ...] = ()


class Origin(_FrozenModel):
    """The publications of a strategy.

    Attributes:
        publications: the names of its publications; empty for a control.
        note: which part of a publication the strategy is, if not all of it.
    """

    publications: tuple[str, ...] = Field(default=(), alias="from")
    note: str | None = None


class PublishedTable(_FrozenModel):
    """A published table of results.

    Attributes:
        title: the model and the budgets.
        by: the name of the publication that it is from.
        source: where in the publication it is.
        measure: what its figures are, and under which protocol.
        columns: the head of the table.
        rows: the figures, by publication.
    """

    title: str
    by: str
    source: str
    measure: str
    columns: tuple[int | str, ...]
    rows: dict[str, tuple[int | float | None, ...]]


class Provenance(_FrozenModel):
    """The content of `provenance.yaml`.

    Attributes:
        publications: by the name of the recipe that reproduces them.
        strategies: by the name of the strategy, whether or not it is registered.
        tables: in the order in which the catalogue shows them.
    """

    publications: dict[str, Publication]
    strategies: dict[str, Origin]
    tables: tuple[PublishedTable, ...]


@cache
def provenance() -> Provenance:
    """Return the content of `provenance.yaml`."""
    text = files("tokensieve_strategies").joinpath("provenance.yaml").read_text(encoding="utf-8")
    return Provenance.model_validate(yaml.safe_load(text))
