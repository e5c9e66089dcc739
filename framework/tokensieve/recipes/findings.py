"""`Finding`: what a review says of a stage, once for all neighbouring sites of which the same is true."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from tokensieve.sites import Site

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """A finding about one stage of a recipe, or about equal ones at neighbouring sites.

    Attributes:
        level: `error` if the recipe cannot run, `warning` if it runs but probably does not do what its author meant,
            `note` for other remarks.
        site: the site of the stage, or a range such as `decoder.2..5`.
        message: what was found, and what to do.
        missing_evidence: whether the error is that evidence is not available at the site.
        place: file and line of the stage; empty if the recipe was not read from a file.
    """

    level: Level
    site: str
    message: str
    missing_evidence: bool = False
    place: str = ""

    def __str__(self) -> str:
        return f"{self.level} at {self.site}: {self.message}" + (f"  ({self.place})" if self.place else "")


def by_range(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings in their order, those that say the same of consecutive sites as one, with a range for its site.

    Args:
        findings: each of one site; for equal messages the sites are in the order of the forward pass.
    """
    ranges: dict[Finding, list[tuple[Site, Site]]] = {}
    order: list[tuple[Finding, int]] = []
    for finding in dict.fromkeys(findings):
        anywhere, site = replace(finding, site=""), Site.of(finding.site)
        known = ranges.setdefault(anywhere, [])
        if known and known[-1][1].next == site:
            known[-1] = (known[-1][0], site)
        else:
            order.append((anywhere, len(known)))
            known.append((site, site))
    return [replace(finding, site=_written(*ranges[finding][number])) for finding, number in order]


def _written(first: Site, last: Site) -> str:
    return str(first) if first == last else f"{first}..{last.block}"
