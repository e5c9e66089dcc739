"""Tables in the field's shape, once as values and then as Markdown, LaTeX, CSV or HTML."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from tokensieve.study.analysis import Arm, Block, Comparison
from tokensieve.study.findings import Findings
from tokensieve.study.inference import Versus, half
from tokensieve.study.statistics import Interval
from tokensieve.tasks.base import Task

NOTHING = "\u2013"
"""What is printed where there is no number: an en dash."""
NEEDED = "Needed %"
"""A column: how many of the tokens that answers need stayed."""
FREE = "All tokens, and none"
"""The heading of what has no budget."""
NOTE = "Points, 95 % intervals over pictures; ▲ better, ▼ worse after Holm's correction."
MARKS = {"better": "▲", "worse": "▼", "open": ""}
"""What stands behind a difference that is shown."""


@dataclass(frozen=True)
class Share:
    """A share of right answers with its interval, printed in per cent as `87.3 ±2.1`.

    Attributes:
        interval: of it.
        best: whether nothing in its ranking is higher.
    """

    interval: Interval
    best: bool = False


@dataclass(frozen=True)
class Delta:
    """A paired difference, printed in points as `+3.1 [1.0, 5.2]`."""

    versus: Versus


@dataclass(frozen=True)
class PValue:
    """A p-value, printed as `0.012`; `n/a` where there is none."""

    p: float | None


Cell: TypeAlias = str | float | Share | Delta | PValue | None


@dataclass(frozen=True)
class Line:
    """A row of a table: whose it is, and its cells; none is printed as a dash."""

    label: str
    cells: tuple[Cell, ...]
    role: str = "method"


@dataclass(frozen=True)
class Group:
    """Rows that may be ranked against each other, under a heading."""

    heading: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: of its files.
        title: above it.
        columns: headings, that of the first column left out.
        groups: its rows.
        notes: below it.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    groups: tuple[Group, ...]
    notes: tuple[str, ...] = field(default=())


# ------------------------------------------------------------------------------------------- from findings to values


def accuracy_table(found: Findings) -> Table:
    """Return a comparison's main table: a column for every type of question, a group for every block."""
    comparison = found.comparison
    kinds = [kind for kind in dict.fromkeys(comparison.kinds) if kind]
    shown = kinds if len(kinds) > 1 else []
    out = set(comparison.left_out)
    columns = (
        *(f"{kind} †" if kind in out else kind for kind in _sorted(shown, out)),
        "All",
        "Rel. %",
        "Δ best control",
        "p",
        *((NEEDED,) if _needed(comparison) else ()),
        "Tokens/layer",
        "GFLOPs",
        "ms",
    )
    groups = []
    free = [arm for arm in comparison.arms if arm.role in ("unpruned", "text_only")]
    ordered = _sorted(shown, out)
    if free:
        groups.append(Group(FREE, tuple(_line(comparison, arm, ordered) for arm in free)))
    for block in comparison.blocks:
        lines = _block_lines(found, block, ordered)
        groups.append(Group(block_name(block), lines))
    return Table(f"accuracy-{slug(comparison.title)}", comparison.title, columns, tuple(groups), _notes(found))


def task_table(founds: Sequence[Findings]) -> Table | None:
    """Return a model's table over several tasks: a column for every task, each under one card.

    Args:
        founds: the findings of one model.

    Returns:
        The table, or none where there are not two tasks with one card each.
    """
    cards: dict[str, list[Comparison]] = {}
    for found in founds:
        cards.setdefault(found.comparison.task, []).append(found.comparison)
    single = [comparisons[0] for comparisons in cards.values() if len(comparisons) == 1]
    if len(single) < 2:
        return None
    groups: dict[tuple[str, ...], list[tuple[Line, float]]] = {}
    for arm in _distinct(single):
        where = [comparison.find(arm.method, arm.keep) for comparison in single]
        blocks = [
            None if one is None or one.keep is None else comparison.block_of(one)
            for one, comparison in zip(where, single, strict=True)
        ]
        # Rows stand together only if they are in the same block of every task.
        heading = tuple("" if block is None else block_name(block) for block in blocks)
        shares = [
            None if one is None else Share(comparison.interval(one))
            for one, comparison in zip(where, single, strict=True)
        ]
        ratios = [
            None if one is None else relative(comparison, one, headline_only=True)
            for one, comparison in zip(where, single, strict=True)
        ]
        known = [ratio for ratio in ratios if ratio is not None]
        mean = 100 * float(np.mean(known)) if len(known) == len(single) else None
        line = Line(arm.method, (*shares, mean), arm.role)
        groups.setdefault(heading, []).append((line, -1.0 if mean is None else mean))
    left = [task for task, comparisons in cards.items() if len(comparisons) > 1]
    notes = [f"{task} was run under several cards, so it is in no table with others." for task in left]
    return Table(
        f"tasks-{slug(single[0].model)}",
        f"{single[0].model}: all tasks",
        (*(comparison.task for comparison in single), "Rel. %"),
        tuple(
            Group(" / ".join(dict.fromkeys(filter(None, heading))) or FREE, _by_mean(lines))
            for heading, lines in groups.items()
        ),
        ("All: types of question that count in the headline. Rel.: mean ratio to the unpruned model.", *notes),
    )


def measures_table(comparison: Comparison, task: Task) -> Table | None:
    """Return what a task makes of all grades, such as POPE's F1: a column a measure, groups as in the main table.

    Args:
        comparison: of that task.
        task: what was asked.

    Returns:
        The table, or none where the task has nothing but its metric.
    """
    groups = []
    names: dict[str, None] = {}
    for heading, arms in _headed(comparison):
        found = [(arm, [task.summary(cell.grades) for cell in arm.cells]) for arm in arms]
        names |= dict.fromkeys(name for _, cells in found for cell in cells for name in cell)
        groups.append((heading, found))
    if set(names) <= {task.metric}:
        return None
    return Table(
        f"measures-{slug(comparison.title)}",
        f"{comparison.title}: measures of the task",
        tuple(names),
        tuple(
            Group(
                heading,
                tuple(
                    Line(arm.method, tuple(_measure([cell[name] for cell in cells]) for name in names), arm.role)
                    for arm, cells in found
                ),
            )
            for heading, found in groups
        ),
        (
            f"Over all {len(comparison.samples)} questions, also of types that All leaves out; of draws, the mean.",
            f"Methods are compared by {task.metric}.",
        ),
    )


def relative(comparison: Comparison, arm: Arm, headline_only: bool = False) -> float | None:
    """Return the field's relative average: the mean, over types of question, of the ratio to the unpruned model.

    Args:
        comparison: where the arm is from.
        arm: whose.
        headline_only: take the ratio of the headline as a whole.
    """
    unpruned = comparison.unpruned
    if unpruned is None:
        return None
    masks = [comparison.headline] if headline_only else [comparison.of_kind(kind) for kind in comparison.headline_kinds]
    whole = [float(unpruned.correct[mask].mean()) for mask in masks]
    if min(whole) <= 0:
        return None
    return float(np.mean([arm.correct[mask].mean() / full for mask, full in zip(masks, whole, strict=True)]))


def block_name(block: Block) -> str:
    """Return a block's heading: the budget as written, and the ledger's."""
    return f"keep {block.keep}: {block.tokens:.3g} visual tokens per layer"


def control_table(found: Findings) -> Table:
    """Return every method's difference to the best control of its ledger: a row a method, a column a budget."""
    comparison = found.comparison
    by = {(one.arm.method, one.arm.keep): one for one in found.controls}
    lines = []
    for method in comparison.methods:
        cells: list[Cell] = []
        for keep in comparison.keeps:
            one = by.get((method, keep))
            cells += tested(None if one is None else one.versus)
        mixed = any(one.mixed for one in found.controls if one.arm.method == method)
        lines.append(Line(f"{method} ‡" if mixed else method, tuple(cells)))
    best: list[Cell] = []
    for keep in comparison.keeps:
        names = dict.fromkeys(one.other for one in found.controls if one.arm.keep == keep and not one.mixed)
        best += [", ".join(name.removesuffix(f" at {keep}") for name in names) or None, None]
    notes = [NOTE, mcnemar_note(comparison, picked=True)]
    if any(one.mixed for one in found.controls):
        notes.append(
            "‡ No control has this ledger, so each is mixed from its two nearest budgets to exactly as many tokens per "
            "layer."
        )
    return Table(
        f"controls-{slug(comparison.title)}",
        f"{comparison.title}: difference to the best control",
        with_tests(comparison.keeps),
        (Group("", (Line("best control", tuple(best), "control"), *lines)),),
        tuple(notes),
    )


def tested(versus: Versus | None) -> tuple[Cell, Cell]:
    """Return the cells of a difference and of McNemar's p-value beside it."""
    return (None, None) if versus is None else (Delta(versus), PValue(versus.mcnemar_holm))


def with_tests(keeps: Iterable[str]) -> tuple[str, ...]:
    """Return a column for every budget and one for the p-value beside it."""
    return tuple(column for keep in keeps for column in (keep, f"p at {keep}"))


def mcnemar_note(comparison: Comparison, picked: bool = False) -> str:
    """Say what McNemar's p-values are, and whether they can be trusted.

    Args:
        comparison: of which.
        picked: whether they are against the control that came out best, and what stands beside them is not.
    """
    note = (
        "p: McNemar's exact test after Holm's correction; n/a where some answer is neither right nor wrong, as in a "
        "mean over draws or a mixture of budgets."
    )
    if picked:
        note += " It takes the control that came out best for the only one; ▲ and ▼ reckon with all of them."
    mask = comparison.headline
    if len(set(comparison.clusters[mask].tolist())) < mask.sum():
        note += (
            " It takes questions for independent, so p is too small where a picture has several; ▲ and ▼ are by a test "
            "that flips whole pictures."
        )
    return note


def _line(
    comparison: Comparison, arm: Arm, kinds: Sequence[str], best: bool = False, versus: Versus | None = None
) -> Line:
    cells: list[Cell] = [Share(comparison.interval(arm, kind)) for kind in kinds]
    ratio = relative(comparison, arm)
    cells += [
        Share(comparison.interval(arm), best),
        None if ratio is None else 100 * ratio,
        *tested(versus),
        *((_stayed(arm),) if _needed(comparison) else ()),
        f"{arm.tokens:.1f}",
        f"{arm.flops / 1e9:.4g}",
        f"{arm.ms:.3g}",
    ]
    return Line(arm.method, tuple(cells), arm.role)


def _needed(comparison: Comparison) -> bool:
    """Return whether it is known of any question which tokens its answer needs."""
    return any(np.isfinite(arm.recall).any() for arm in comparison.arms)


def _stayed(arm: Arm) -> str | None:
    """Return the part of the needed tokens that stayed, over all questions of which it is known."""
    known = arm.recall[np.isfinite(arm.recall)]
    return f"{100 * known.mean():.1f}" if len(known) else None


def _block_lines(found: Findings, block: Block, kinds: Sequence[str]) -> tuple[Line, ...]:
    comparison = found.comparison
    best = max((comparison.score(arm) for arm in block.arms), default=0.0)
    lines = []
    for arm in block.arms:
        one = next((one for one in found.controls if one.arm is arm), None)
        first = len(block.arms) > 1 and comparison.score(arm) >= best
        lines.append(_line(comparison, arm, kinds, first, None if one is None else one.versus))
    bounds = [arm for arm in block.bounds if arm.role != "inverted"]
    return (*lines, *(_line(comparison, arm, kinds) for arm in bounds))


def _headed(comparison: Comparison) -> list[tuple[str, list[Arm]]]:
    """Return all arms but inverted scores under the headings of the main table."""
    free = [arm for arm in comparison.arms if arm.role in ("unpruned", "text_only")]
    blocks = [
        (block_name(block), [*block.arms, *(arm for arm in block.bounds if arm.role != "inverted")])
        for block in comparison.blocks
    ]
    return [(FREE, free), *blocks] if free else blocks


def _measure(values: Sequence[float]) -> Cell:
    mean = float(np.mean(values))
    if not np.isfinite(mean):
        return None
    # Measures are of any size: a divergence may be tiny.
    return f"{mean:#.2g}" if 0 < abs(mean) < 0.01 else f"{mean:.3f}"


def _notes(found: Findings) -> tuple[str, ...]:
    comparison = found.comparison
    notes = [
        f"Right answers in %, ± the larger half of a 95 % interval over {len(set(comparison.images))} pictures; "
        f"{len(comparison.samples)} questions a cell; card {comparison.card_hash}.",
        "Best of a block in bold, where there is something to rank. GFLOPs are counted, ms are measured."
        + (f" {NEEDED}: of the tokens that answers need, those that stayed." if _needed(found.comparison) else ""),
        mcnemar_note(comparison, picked=True),
    ]
    for kind, (right, count) in comparison.left_out.items():
        notes.append(
            f"† {kind}: the unpruned model has {100 * right:.1f} % right of {count}, below 80 %, so it counts neither "
            "in All nor in Rel."
        )
    return tuple(notes)


def _sorted(kinds: Iterable[str], last: set[str]) -> list[str]:
    return sorted(kinds, key=lambda kind: kind in last)


def _distinct(comparisons: Sequence[Comparison]) -> list[Arm]:
    found: dict[tuple[str, str | None], Arm] = {}
    for comparison in comparisons:
        for arm in comparison.arms:
            if arm.role != "inverted":
                found.setdefault((arm.method, arm.keep), arm)
    return list(found.values())


def _by_mean(lines: Sequence[tuple[Line, float]]) -> tuple[Line, ...]:
    return tuple(line for line, _ in sorted(lines, key=lambda pair: -pair[1]))


# ------------------------------------------------------------------------------------------------ from values to text


def slug(text: str) -> str:
    """Return a name for files: letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "table"


def spelled(method: str, formula: str) -> str:
    """Return a method's name with its formula, where that says more."""
    bare = formula[1:-1] if formula.startswith("(") and formula.count("(") == 1 else formula
    return method if bare == method else f"{method} = {bare}"


def in_points(versus: Versus) -> str:
    """Return a difference in points with its interval, as `+3.1 [1.0, 5.2]`."""
    # Rounded first, so that nothing is printed as minus zero.
    value, low, high = (round(100 * one, 1) + 0.0 for one in (versus.value, versus.low, versus.high))
    return f"{value:+.1f} [{low:.1f}, {high:.1f}]"


def reordered(table: Table, first: Collection[str]) -> Table:
    """Return a table with some columns before the others."""
    order = sorted(range(len(table.columns)), key=lambda number: table.columns[number] not in first)
    groups = tuple(
        replace(
            group,
            lines=tuple(replace(line, cells=tuple(line.cells[number] for number in order)) for line in group.lines),
        )
        for group in table.groups
    )
    return replace(table, columns=tuple(table.columns[number] for number in order), groups=groups)


def printed(cell: Cell) -> str:
    """Return a cell as plain text."""
    if cell is None:
        return NOTHING
    if isinstance(cell, Share):
        return f"{100 * cell.interval.estimate:.1f} ±{100 * half(cell.interval):.1f}"
    if isinstance(cell, Delta):
        one = cell.versus
        mark = MARKS[one.verdict]
        return in_points(one) + (f" {mark}" if mark else "")
    if isinstance(cell, PValue):
        return "n/a" if cell.p is None else "<0.001" if cell.p < 0.001 else f"{cell.p:.3f}"
    if isinstance(cell, int | float):
        return f"{cell:.1f}"
    return cell


def markdown(table: Table) -> str:
    """Return a table in Markdown; groups are rows of their own."""
    lines = [f"### {table.title}", "", _pipe(["", *table.columns])]
    lines.append(_pipe(["---", *("---:" for _ in table.columns)]))
    for group in table.groups:
        if group.heading:
            lines.append(_pipe([f"**{_safe(group.heading)}**", *("" for _ in table.columns)]))
        for line in group.lines:
            cells = [f"**{printed(cell)}**" if _best(cell) else _safe(printed(cell)) for cell in line.cells]
            lines.append(_pipe([_safe(line.label), *cells]))
    return "\n".join([*lines, "", *(f"{note}  " for note in table.notes), ""])


def latex(table: Table) -> str:
    """Return a table in LaTeX, with booktabs."""
    width = len(table.columns) + 1
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "  \\centering\\small",
        f"  \\caption{{{tex(table.title)}. {' '.join(tex(note) for note in table.notes)}}}",
        f"  \\label{{tab:{table.name}}}",
        f"  \\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        "    \\toprule",
        "    " + " & ".join(["", *(tex(column) for column in table.columns)]) + " \\\\",
    ]
    for group in table.groups:
        lines.append("    \\midrule")
        if group.heading:
            lines.append(f"    \\multicolumn{{{width}}}{{l}}{{\\emph{{{tex(group.heading)}}}}} \\\\")
        for line in group.lines:
            lines.append("    " + " & ".join([tex(line.label), *(_tex_cell(cell) for cell in line.cells)]) + " \\\\")
    return "\n".join([*lines, "    \\bottomrule", "  \\end{tabular}", "\\end{table}", ""])


def as_csv(table: Table) -> str:
    """Return a table as CSV: an interval is three columns, in the units of the table's text."""
    out = io.StringIO()
    wide = [_width(table, number) for number in range(len(table.columns))]
    head = ["group", "row", "role"]
    for column, parts in zip(table.columns, wide, strict=True):
        head += [column, f"{column} low", f"{column} high"] if parts else [column]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for group in table.groups:
        for line in group.lines:
            row = [group.heading, line.label, line.role]
            for cell, parts in zip(line.cells, wide, strict=True):
                row += _numbers(cell, parts)
            writer.writerow(row)
    return out.getvalue()


def tex(text: str) -> str:
    """Return text with LaTeX's signs escaped."""
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
        "▲": r"$\blacktriangle$",
        "▼": r"$\blacktriangledown$",
        "†": r"$\dagger$",
        "‡": r"$\ddagger$",
        NOTHING: "--",
    }
    return "".join(signs.get(sign, sign) for sign in text)


def _tex_cell(cell: Cell) -> str:
    if isinstance(cell, Share):
        number = f"{100 * cell.interval.estimate:.1f}"
        bold = f"\\textbf{{{number}}}" if cell.best else number
        return f"{bold} {{\\scriptsize $\\pm${100 * half(cell.interval):.1f}}}"
    if isinstance(cell, Delta):
        value, _, rest = printed(cell).partition(" ")
        return f"${value}$ {{\\scriptsize {tex(rest)}}}"
    return tex(printed(cell))


def _best(cell: Cell) -> bool:
    return isinstance(cell, Share) and cell.best


def _pipe(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _safe(text: str) -> str:
    """Return text that Markdown prints as it is, inside a table."""
    return re.sub(r"([\\|*_`~<>\[\]])", r"\\\1", text)


def _width(table: Table, number: int) -> bool:
    return any(isinstance(line.cells[number], Share | Delta) for group in table.groups for line in group.lines)


def _numbers(cell: Cell, interval: bool) -> list[str]:
    if isinstance(cell, Share):
        values = (cell.interval.estimate, cell.interval.low, cell.interval.high)
    elif isinstance(cell, Delta):
        values = (cell.versus.value, cell.versus.low, cell.versus.high)
    elif isinstance(cell, PValue):
        return ["" if cell.p is None else f"{cell.p:.6g}"]
    else:
        text = "" if cell is None else printed(cell)
        return [text, "", ""] if interval else [text]
    return [f"{100 * value:.3f}" for value in values]
