"""Tables of differences: to controls, to operands, to inverted scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tokensieve.study.analysis.comparison import Comparison
from tokensieve.study.analysis.findings import Findings, MethodDifference
from tokensieve.study.analysis.significance import PairedDifference
from tokensieve.study.report.tables.values import (
    DIFFERENCE_NOTE,
    Delta,
    PValue,
    RowGroup,
    Table,
    TableCell,
    TableRow,
    slug,
)

# ------------------------------------------------------------------------------------------------------------ tables


def plain_table(findings: Findings) -> Table | None:
    """Return the differences of every method to `uniform` and to `random`."""
    return _difference_table(
        findings,
        "plain",
        "difference to uniform and to random",
        findings.plain,
        lambda one: f"{one.arm.method} vs {one.control_role}",
    )


def composition_table(findings: Findings) -> Table | None:
    """Return the differences of every composition to its operands."""
    flat = [one for composed in findings.compositions for one in composed.differences]
    return _difference_table(
        findings,
        "compositions",
        "compositions and their operands",
        flat,
        lambda one: f"{one.arm.method} vs {one.other}",
        test=True,
    )


def attention_table(findings: Findings) -> Table | None:
    """Return the differences of methods that use attention to the best control, by type of question."""
    return _difference_table(
        findings,
        "attention",
        "attention against the best control",
        findings.attention,
        lambda one: f"{one.arm.method}: {one.kind or 'all'}",
        test=True,
    )


def inverse_table(findings: Findings) -> Table | None:
    """Return the difference of every method to its inverse."""
    comparison = findings.comparison
    keeps = [keep for keep in comparison.keeps if any(one.arm.keep == keep for one in findings.inverses)]
    lines = []
    for method in dict.fromkeys(one.arm.method for one in findings.inverses):
        by = {one.arm.keep: one for one in findings.inverses if one.arm.method == method}
        lines.append(
            TableRow(f"{method} vs its inverse", tuple(Delta(by[k].difference) if k in by else None for k in keeps))
        )
    return single_group(comparison, "inverses", "every method and its inverse", keeps, lines)


def _difference_table(
    findings: Findings,
    name: str,
    title: str,
    differences: Iterable[MethodDifference],
    label: Callable[[MethodDifference], str],
    *,
    test: bool = False,
) -> Table | None:
    """Return a table with a row for every label and a column for every budget, and with p-values if `test` is set."""
    comparison = findings.comparison
    rows: dict[str, dict[str, PairedDifference]] = {}
    mixed = False
    for one in differences:
        mixed |= one.mixed
        rows.setdefault(label(one) + (" ‡" if one.mixed else ""), {})[str(one.arm.keep)] = one.difference
    keeps = [keep for keep in comparison.keeps if any(keep in row for row in rows.values())]
    width = 2 if test else 1
    lines = [
        TableRow(text, tuple(cell for keep in keeps for cell in difference_cells(row.get(keep))[:width]))
        for text, row in rows.items()
    ]
    notes = [DIFFERENCE_NOTE, mcnemar_note(comparison)][:width]
    if mixed:
        notes.append("‡ Against controls mixed from their two nearest budgets to exactly as many tokens per layer.")
    return single_group(comparison, name, title, difference_columns(keeps) if test else keeps, lines, tuple(notes))


def single_group(
    comparison: Comparison,
    name: str,
    title: str,
    columns: Sequence[str],
    lines: Sequence[TableRow],
    notes: tuple[str, ...] = (DIFFERENCE_NOTE,),
) -> Table | None:
    """Return a table of one group, or none if it has no rows."""
    if not lines:
        return None
    whole = f"{comparison.title}: {title}"
    return Table(f"{name}-{slug(comparison.title)}", whole, tuple(columns), (RowGroup("", tuple(lines)),), notes)


def control_table(findings: Findings) -> Table:
    """Return the difference of every method to its best matched control, with a column for every budget."""
    comparison = findings.comparison
    by = {(one.arm.method, one.arm.keep): one for one in findings.controls}
    lines = []
    for method in comparison.methods:
        cells: list[TableCell] = []
        for keep in comparison.keeps:
            one = by.get((method, keep))
            cells += difference_cells(None if one is None else one.difference)
        mixed = any(one.mixed for one in findings.controls if one.arm.method == method)
        lines.append(TableRow(f"{method} ‡" if mixed else method, tuple(cells)))
    best: list[TableCell] = []
    for keep in comparison.keeps:
        names = dict.fromkeys(one.other for one in findings.controls if one.arm.keep == keep and not one.mixed)
        best += [", ".join(name.removesuffix(f" at {keep}") for name in names) or None, None]
    notes = [DIFFERENCE_NOTE, mcnemar_note(comparison, picked=True)]
    if any(one.mixed for one in findings.controls):
        notes.append(
            "‡ No control has this ledger, so each is mixed from its two nearest budgets to exactly as many tokens per "
            "layer."
        )
    return Table(
        f"controls-{slug(comparison.title)}",
        f"{comparison.title}: difference to the best control",
        difference_columns(comparison.keeps),
        (RowGroup("", (TableRow("best control", tuple(best), "control"), *lines)),),
        tuple(notes),
    )


def difference_cells(difference: PairedDifference | None) -> tuple[TableCell, TableCell]:
    """Return the cells of a difference and of McNemar's p-value."""
    return (None, None) if difference is None else (Delta(difference), PValue(difference.mcnemar_holm))


def difference_columns(keeps: Iterable[str]) -> tuple[str, ...]:
    """Return two columns for every budget: the difference and the p-value."""
    return tuple(column for keep in keeps for column in (keep, f"p at {keep}"))


def mcnemar_note(comparison: Comparison, picked: bool = False) -> str:
    """Return the note on what McNemar's p-values mean.

    Args:
        comparison: the comparison of the p-values.
        picked: whether they are against the best control only, while the verdicts account for all controls.
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
