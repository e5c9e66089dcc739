"""Names of tables and figures: of their files, and of their ids in a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from tokensieve.study.report.figures.style import Drawing
from tokensieve.study.report.tables.values import Table, short_hash

Named = TypeVar("Named", Table, Drawing)


def unique_names(named: Sequence[Named]) -> list[Named]:
    """Return tables or figures with names of their own: those that share a name get a hash of the title.

    Titles with the same name differ in signs that `slug` drops. Titles can be the same, too: two models of one name, or
    a task with two cards. These are numbered.
    """
    shared = {name for name, count in Counter(one.name for one in named).items() if count > 1}
    used: Counter[str] = Counter()
    found = []
    for one in named:
        name = f"{one.name}-{short_hash(one.title)}" if one.name in shared else one.name
        used[name] += 1
        found.append(replace(one, name=name if used[name] == 1 else f"{name}-{used[name]}"))
    return found
