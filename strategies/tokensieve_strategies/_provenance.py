"""Where the methods come from, read from `provenance.yaml`. It knows no method."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import yaml
from pydantic import BaseModel, ConfigDict, Field


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Claim(_Record):
    """A figure that was published outside of the tables.

    Attributes:
        text: what is claimed.
        source: where we have seen it.
    """

    text: str
    source: str


class Publication(_Record):
    """A published method.

    Attributes:
        title: its short name.
        venue: where and when it appeared, if we know.
        paper: the link, if we know.
        code: the authors' repository, and the commit that we have read.
        licence: of that code.
        claims: what else was published about it.
    """

    title: str
    venue: str | None = None
    paper: str | None = None
    code: str
    licence: str
    claims: tuple[Claim, ...] = ()


class Origin(_Record):
    """Where a strategy comes from, and what it costs.

    Attributes:
        publications: their names; none for a control.
        note: what the strategy is of them, if not all.
        time: how it grows with the n tokens of a group.
        memory: likewise.
    """

    publications: tuple[str, ...] = Field(default=(), alias="from")
    note: str | None = None
    time: str
    memory: str


class Printed(_Record):
    """A table that somebody printed.

    Attributes:
        title: the model and the budgets.
        by: whose table it is.
        source: where we have seen it.
        measure: what its figures are, and under which protocol.
        columns: its head.
        rows: figures by publication.
    """

    title: str
    by: str
    source: str
    measure: str
    columns: tuple[int | str, ...]
    rows: dict[str, tuple[int | float | None, ...]]


class Provenance(_Record):
    """All that is in the file.

    Attributes:
        publications: by the name of the recipe that reproduces them.
        strategies: by the strategy's name, whether or not it is registered.
        tables: in the order in which they are shown.
    """

    publications: dict[str, Publication]
    strategies: dict[str, Origin]
    tables: tuple[Printed, ...]


@cache
def provenance() -> Provenance:
    """Read the file."""
    text = files("tokensieve_strategies").joinpath("provenance.yaml").read_text(encoding="utf-8")
    return Provenance.model_validate(yaml.safe_load(text))
