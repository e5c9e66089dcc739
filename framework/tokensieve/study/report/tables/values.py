"""Tables as values, and the text of their cells."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from tokensieve.study.analysis.significance import PairedDifference, half_width
from tokensieve.study.statistics import Interval

LONGEST_NAME = 120
"""The longest name of a file, without what makes it unique and its ending."""
NOTHING = "\u2013"
"""The text of a cell without a value: an en dash."""
NEEDED = "Needed %"
"""The column with the share of needed tokens that are kept."""
DIFFERENCE_NOTE = "Points, 95 % intervals over pictures; ▲ better, ▼ worse after Holm's correction."
VERDICT_MARKS = {"better": "▲", "worse": "▼", "open": ""}
"""The mark after a difference, by verdict."""


@dataclass(frozen=True)
class Share:
    """A share of right answers, or a ratio, with its interval, printed in per cent as `87.3 ±2.1`.

    Attributes:
        interval: the share with its interval.
        best: whether it is the highest of its column in the group.
    """

    interval: Interval
    best: bool = False


@dataclass(frozen=True)
class Delta:
    """A paired difference, printed in points as `+3.1 [1.0, 5.2]`."""

    difference: PairedDifference


@dataclass(frozen=True)
class PValue:
    """A p-value, printed as `0.012`; `n/a` where there is none."""

    p: float | None


TableCell: TypeAlias = str | float | Share | Delta | PValue | None


@dataclass(frozen=True)
class TableRow:
    """A row of a table: a label, cells, and the role of the method. A cell that is none is printed as a dash."""

    label: str
    cells: tuple[TableCell, ...]
    role: str = "method"


@dataclass(frozen=True)
class RowGroup:
    """Rows under a heading; they may be ranked against each other."""

    heading: str
    rows: tuple[TableRow, ...]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: the name of its files.
        title: the text above the table.
        columns: the headings of all columns but the first.
        groups: the rows in groups.
        notes: the texts below the table.
        warning: what a reader has to know of every number, such as that the study is incomplete; usually empty.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    groups: tuple[RowGroup, ...]
    notes: tuple[str, ...] = field(default=())
    warning: str = ""


# ------------------------------------------------------------------------------------------------ from values to text


def slug(text: str) -> str:
    """Return a text as a file name of letters, digits and dashes."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "table"
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}-{short_hash(text)}"


def short_hash(text: str) -> str:
    """Return eight hex digits of the hash of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def method_label(method: str, formula: str) -> str:
    """Return a method's name, with its formula if that differs from the name."""
    bare = formula[1:-1] if formula.startswith("(") and formula.count("(") == 1 else formula
    return method if bare == method else f"{method} = {bare}"


def points_text(difference: PairedDifference) -> str:
    """Return a difference in points with its interval, as `+3.1 [1.0, 5.2]`."""
    # Rounded first, so that no minus zero is printed.
    value, low, high = (round(100 * one, 1) + 0.0 for one in (difference.value, difference.low, difference.high))
    return f"{value:+.1f} [{low:.1f}, {high:.1f}]"


def with_columns_first(table: Table, first: Collection[str]) -> Table:
    """Return a table with some columns moved to the front."""
    order = sorted(range(len(table.columns)), key=lambda number: table.columns[number] not in first)
    groups = tuple(
        replace(
            group,
            rows=tuple(replace(line, cells=tuple(line.cells[number] for number in order)) for line in group.rows),
        )
        for group in table.groups
    )
    return replace(table, columns=tuple(table.columns[number] for number in order), groups=groups)


def number_and_interval(cell: TableCell) -> tuple[str, str]:
    """Return the number of a cell, with its verdict, and the interval after it; empty if there is none."""
    text = cell_text(cell)
    if isinstance(cell, Share):
        number, _, interval = text.partition(" ")
        return number, interval
    if isinstance(cell, Delta):
        number, _, rest = text.partition(" ")
        interval, bracket, mark = rest.partition("]")
        return number + mark, interval + bracket
    return text, ""


def cell_text(cell: TableCell) -> str:
    """Return a cell as plain text."""
    if cell is None:
        return NOTHING
    if isinstance(cell, Share):
        return f"{100 * cell.interval.estimate:.1f} ±{100 * half_width(cell.interval):.1f}"
    if isinstance(cell, Delta):
        one = cell.difference
        mark = VERDICT_MARKS[one.verdict]
        return points_text(one) + (f" {mark}" if mark else "")
    if isinstance(cell, PValue):
        return "n/a" if cell.p is None else "<0.001" if cell.p < 0.001 else f"{cell.p:.3f}"
    if isinstance(cell, int | float):
        return f"{cell:.1f}"
    return cell
