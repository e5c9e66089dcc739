"""Tables as Markdown and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from tokensieve.study.report.tables.values import Delta, PValue, Share, Table, TableCell, cell_text


def to_markdown(table: Table) -> str:
    """Return a table as Markdown; the heading of a group is a row."""
    lines = [f"### {escape_markdown(table.title)}", ""]
    lines += [f"**{escape_markdown(table.warning)}**", ""] if table.warning else []
    lines.append(_markdown_row(["", *map(escape_markdown, table.columns)]))
    lines.append(_markdown_row(["---", *("---:" for _ in table.columns)]))
    for group in table.groups:
        if group.heading:
            lines.append(_markdown_row([f"**{escape_markdown(group.heading)}**", *("" for _ in table.columns)]))
        for line in group.rows:
            cells = [
                f"**{cell_text(cell)}**" if _is_best(cell) else escape_markdown(cell_text(cell)) for cell in line.cells
            ]
            lines.append(_markdown_row([escape_markdown(line.label), *cells]))
    return "\n".join([*lines, "", *(f"{escape_markdown(note)}  " for note in table.notes), ""])


def to_csv(table: Table) -> str:
    """Return a table as CSV. A value with an interval has three columns, in the units of the printed table.

    A table with a warning has it in a last column.
    """
    out = io.StringIO()
    with_interval = [_has_intervals(table, number) for number in range(len(table.columns))]
    header = ["group", "row", "role"]
    for column, parts in zip(table.columns, with_interval, strict=True):
        header += [column, f"{column} low", f"{column} high"] if parts else [column]
    header += ["warning"] if table.warning else []
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    for group in table.groups:
        for line in group.rows:
            row = [group.heading, line.label, line.role]
            for cell, parts in zip(line.cells, with_interval, strict=True):
                row += _csv_cells(cell, parts)
            row += [table.warning] if table.warning else []
            writer.writerow(row)
    return out.getvalue()


def _is_best(cell: TableCell) -> bool:
    return isinstance(cell, Share) and cell.best


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def escape_markdown(text: str) -> str:
    """Return text as one line with the special characters of Markdown escaped."""
    return re.sub(r"([\\|*_`~<>\[\]$#])", r"\\\1", " ".join(text.split("\n")).replace("\r", " "))


def _has_intervals(table: Table, number: int) -> bool:
    return any(isinstance(line.cells[number], Share | Delta) for group in table.groups for line in group.rows)


def _csv_cells(cell: TableCell, interval: bool) -> list[str]:
    if isinstance(cell, Share):
        values = (cell.interval.estimate, cell.interval.low, cell.interval.high)
    elif isinstance(cell, Delta):
        values = (cell.difference.value, cell.difference.low, cell.difference.high)
    elif isinstance(cell, PValue):
        return ["" if cell.p is None else f"{cell.p:.6g}"]
    else:
        text = "" if cell is None else cell_text(cell)
        return [text, "", ""] if interval else [text]
    return [f"{100 * value:.3f}" for value in values]
