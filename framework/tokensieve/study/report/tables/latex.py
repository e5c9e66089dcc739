"""Tables as LaTeX that fits a page of the usual two-column styles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tokensieve.errors import StudyError, did_you_mean, listing
from tokensieve.study.report.tables.values import (
    NOTHING,
    Delta,
    RowGroup,
    Share,
    Table,
    TableCell,
    TableRow,
    number_and_interval,
)

ENVIRONMENTS = {"table": 219.0, "table*": 455.0}
"""The width in points of a column and of a page, in the narrowest usual style (that of ACL)."""
SIZES = {"footnotesize": 4.3, "scriptsize": 4.0}
"""The width of a digit in points by size of letters, the size that is tried first first; in the widest usual font."""
TINY = 3.4
"""The width of a digit of an interval."""
COLUMN_GAP = 6.0
"""The points between two columns."""
ROWS = 48
"""The rows of a float, headings included: with its caption it then fits the height of a page."""
NEW_ROW = "\\\\"
INTERVAL = "\\tokensieveinterval"
"""The command around every interval. An author who defines it before as empty hides all intervals."""


@dataclass(frozen=True)
class MethodLabel:
    """How a paper names a method.

    Attributes:
        title: the name.
        cite: the citation key, or none.
    """

    title: str
    cite: str | None = None


@dataclass(frozen=True)
class LatexStyle:
    """How tables are written.

    Attributes:
        labels: how papers name the methods of the study, by their names there.
        intervals: whether intervals are printed.
        columns: the columns of the main tables, in this order; all if there are none.
    """

    labels: Mapping[str, MethodLabel] = field(default_factory=dict)
    intervals: bool = True
    columns: tuple[str, ...] = ()


MAIN_TABLES = ("accuracy-", "tasks-")
"""How the names of the tables begin whose columns can be chosen."""


def checked_columns(columns: Sequence[str], tables: Sequence[Table]) -> tuple[str, ...]:
    """Return columns that a main table has.

    Raises:
        StudyError: if none has such a column.
    """
    known = list(
        dict.fromkeys(name for table in tables if table.name.startswith(MAIN_TABLES) for name in table.columns)
    )
    for name in columns:
        if name not in known:
            raise StudyError(
                f"no main table has a column '{name}'; there are {listing(known)}.{did_you_mean(name, known)}"
            )
    return tuple(columns)


def to_latex(table: Table, style: LatexStyle | None = None) -> str:
    """Return a table as LaTeX with booktabs, no wider and higher than a page of a two-column style.

    It takes one column where it fits in, else the page's width. A table that is wider has its columns below each
    other, with the names of rows again; one that is higher is continued in further floats.

    Args:
        table: the table.
        style: how it is written; by default with intervals, and with the study's names of methods.
    """
    style = style or LatexStyle()
    if style.columns and table.name.startswith(MAIN_TABLES):
        numbers = [table.columns.index(name) for name in style.columns if name in table.columns]
        table = _with_columns(table, numbers) if numbers else table
    environment, size, panels = _fitting(table, style)
    parts = [part for panel in panels for part in _by_height(panel)]
    floats: list[list[Table]] = []
    for part in parts:
        if floats and _height(part) + sum(map(_height, floats[-1])) <= ROWS:
            floats[-1].append(part)
        else:
            floats.append([part])
    lines = ["% needs \\usepackage{booktabs,amssymb}"]
    if style.intervals:
        lines.append(f"\\providecommand{{{INTERVAL}}}[1]{{ {{\\tiny #1}}}}")
    for number, content in enumerate(floats):
        lines += _float(table, content, style, environment, size, number)
    return "\n".join([*lines, ""])


def _float(
    table: Table, content: Sequence[Table], style: LatexStyle, environment: str, size: str, number: int
) -> Iterator[str]:
    """Yield the lines of a float; the first one has the notes and the label."""
    notes = [table.warning, *table.notes] if table.warning else table.notes
    caption = f"{escape_latex(table.title)}. {' '.join(escape_latex(note) for note in notes)}"
    if number:
        caption = f"{escape_latex(table.title)}, continued."
    yield f"\\begin{{{environment}}}[tp]"
    yield f"  \\centering\\{size}\\setlength{{\\tabcolsep}}{{{COLUMN_GAP / 2:g}pt}}"
    # The caption is above the table, where most classes leave no space below it.
    yield f"  \\setlength{{\\belowcaptionskip}}{{3pt}}\\caption{{{caption}}}"
    if not number:
        yield f"  \\label{{tab:{table.name}}}"
    for place, panel in enumerate(content):
        if place:
            yield "  \\par\\medskip"
        yield f"  \\begin{{tabular}}{{@{{}}l{'r' * len(panel.columns)}@{{}}}}"
        yield "    \\toprule"
        yield f"    {' & '.join(['', *map(_heading, panel.columns)])} {NEW_ROW}"
        for group in panel.groups:
            yield "    \\midrule"
            if group.heading:
                width = len(panel.columns) + 1
                yield f"    \\multicolumn{{{width}}}{{@{{}}l}}{{\\emph{{{escape_latex(group.heading)}}}}} {NEW_ROW}"
            for line in group.rows:
                cells = [_row_label(line, style), *(_cell(one, style) for one in line.cells)]
                yield f"    {' & '.join(cells)} {NEW_ROW}"
        yield "    \\bottomrule"
        yield "  \\end{tabular}"
    yield f"\\end{{{environment}}}"


def escape_latex(text: str) -> str:
    """Return text with the special characters of LaTeX escaped."""
    signs = {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "|": r"\textbar{}",
        "<": r"$<$",
        ">": r"$>$",
        "±": r"$\pm$",
        "Δ": r"$\Delta$",
        "τ": r"$\tau$",
        "↓": r"$\downarrow$",
        "▲": r"$\blacktriangle$",
        "▼": r"$\blacktriangledown$",
        "†": r"$\dagger$",
        "‡": r"$\ddagger$",
        NOTHING: "--",
    }
    return "".join(signs.get(sign, sign) for sign in text)


# --------------------------------------------------------------------------------------------------------- to fit


def _fitting(table: Table, style: LatexStyle) -> tuple[str, str, list[Table]]:
    """Return the environment, the size of letters, and the panels with which a table is narrow enough."""
    longest = max((len(group.heading) for group in table.groups), default=0)
    first = max((len(_row_label(line, style, plain=True)) for line in _lines(table)), default=0)
    for environment, space in ENVIRONMENTS.items():
        for size, points in SIZES.items():
            if max(first * points + sum(_widths(table, style, points)), longest * points) <= space:
                return environment, size, [table]
    environment, size = "table*", "scriptsize"
    space, widths = ENVIRONMENTS[environment] - first * SIZES[size], _widths(table, style, SIZES[size])
    panels: list[list[int]] = [[]]
    used = 0.0
    for numbers in _together(table.columns):
        own = sum(widths[number] for number in numbers)
        if panels[-1] and used + own > space:
            panels.append([])
            used = 0.0
        panels[-1] += numbers
        used += own
    return environment, size, [_with_columns(table, numbers) for numbers in panels]


def _together(columns: Sequence[str]) -> list[list[int]]:
    """Return the numbers of columns that stay beside each other: a p-value stays beside its difference."""
    found: list[list[int]] = []
    for number, name in enumerate(columns):
        if found and (name == "p" or name.startswith("p at ")):
            found[-1].append(number)
        else:
            found.append([number])
    return found


def _widths(table: Table, style: LatexStyle, points: float) -> list[float]:
    """Return the width of each column, with the gap before it, where a digit is so many points wide."""
    found = []
    for number, column in enumerate(table.columns):
        parts = [points * len(part) for part in _heading_lines(column)]
        parts += [_cell_width(line.cells[number], style, points) for line in _lines(table)]
        found.append(COLUMN_GAP + max(parts))
    return found


def _cell_width(cell: TableCell, style: LatexStyle, points: float) -> float:
    number, interval = number_and_interval(cell)
    return points * len(number) + (TINY * len(f" {interval}") if interval and style.intervals else 0.0)


def _with_columns(table: Table, numbers: Sequence[int]) -> Table:
    """Return a table with some of its columns."""
    groups = tuple(
        RowGroup(
            group.heading,
            tuple(replace(line, cells=tuple(line.cells[number] for number in numbers)) for line in group.rows),
        )
        for group in table.groups
    )
    return replace(table, columns=tuple(table.columns[number] for number in numbers), groups=groups)


def _by_height(table: Table) -> Iterator[Table]:
    """Yield parts of a table that are no higher than a float; a group that is cut has its heading again."""
    groups: list[RowGroup] = []
    for group in table.groups:
        for start in range(0, max(1, len(group.rows)), ROWS - 4):
            part = replace(group, rows=group.rows[start : start + ROWS - 4])
            if groups and _height(replace(table, groups=(*groups, part))) > ROWS:
                yield replace(table, groups=tuple(groups))
                groups = []
            groups.append(part)
    yield replace(table, groups=tuple(groups))


def _height(table: Table) -> int:
    """Return the rows of a panel with its headings."""
    return 3 + sum(len(group.rows) + 1 for group in table.groups)


def _lines(table: Table) -> list[TableRow]:
    return [line for group in table.groups for line in group.rows]


# --------------------------------------------------------------------------------------------------------- to text


def _heading(text: str) -> str:
    """Return the heading of a column, on two lines if it has several words."""
    lines = _heading_lines(text)
    return escape_latex(text) if len(lines) == 1 else f"\\shortstack[r]{{{NEW_ROW.join(map(escape_latex, lines))}}}"


def _heading_lines(text: str) -> list[str]:
    """Return a heading as one line, or as the two most equal ones if it is long."""
    words = text.split(" ")
    if len(text) <= 8 or len(words) == 1:
        return [text]
    cut = min(range(1, len(words)), key=lambda place: max(len(" ".join(words[:place])), len(" ".join(words[place:]))))
    return [" ".join(words[:cut]), " ".join(words[cut:])]


def _row_label(line: TableRow, style: LatexStyle, plain: bool = False) -> str:
    label = style.labels.get(line.label)
    title = line.label if label is None else label.title
    if plain:
        # A citation is printed as a number, or as a name and a year in other styles.
        return title + (" [12]" if label is not None and label.cite else "")
    return escape_latex(title) + (f"~\\cite{{{label.cite}}}" if label is not None and label.cite else "")


def _cell(cell: TableCell, style: LatexStyle) -> str:
    number, interval = number_and_interval(cell)
    text = escape_latex(number)
    if isinstance(cell, Share) and cell.best:
        text = f"\\textbf{{{text}}}"
    elif isinstance(cell, Delta):
        value, space, mark = number.partition(" ")
        text = f"${value}$" + (f"{space}{escape_latex(mark)}" if mark else "")
    return text + (f"{INTERVAL}{{{escape_latex(interval)}}}" if interval and style.intervals else "")
