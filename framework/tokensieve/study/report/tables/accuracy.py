"""Tables of right answers: the main table of a comparison, a table over tasks, and measures of a task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from tokensieve.study.analysis.comparison import Arm, Block, Comparison
from tokensieve.study.analysis.findings import Findings
from tokensieve.study.analysis.significance import PairedDifference
from tokensieve.study.report.tables.differences import difference_cells, mcnemar_note
from tokensieve.study.report.tables.values import NEEDED, NO_BUDGET, RowGroup, Share, Table, TableCell, TableRow, slug
from tokensieve.tasks.base import Task

# ------------------------------------------------------------------------------------------- from findings to values


def accuracy_table(findings: Findings) -> Table:
    """Return the main table of a comparison: a column for every type of question, a group for every block."""
    comparison = findings.comparison
    kinds = [kind for kind in dict.fromkeys(comparison.kinds) if kind]
    shown = kinds if len(kinds) > 1 else []
    out = set(comparison.left_out)
    columns = (
        *(f"{kind} †" if kind in out else kind for kind in _kinds_with_last(shown, out)),
        "All",
        "Rel. %",
        "Δ best control",
        "p",
        *((NEEDED,) if _has_needed_tokens(comparison) else ()),
        "Tokens/layer",
        "GFLOPs",
        "ms",
    )
    groups = []
    free = [arm for arm in comparison.arms if arm.role in ("unpruned", "text_only")]
    ordered = _kinds_with_last(shown, out)
    if free:
        groups.append(RowGroup(NO_BUDGET, tuple(_row(comparison, arm, ordered) for arm in free)))
    for block in comparison.blocks:
        lines = _block_rows(findings, block, ordered)
        groups.append(RowGroup(block_name(block), lines))
    return Table(f"accuracy-{slug(comparison.title)}", comparison.title, columns, tuple(groups), _notes(findings))


def task_table(all_findings: Sequence[Findings]) -> Table | None:
    """Return the table of a model over several tasks, with a column for every task that has one card.

    Args:
        all_findings: the findings of one model.

    Returns:
        The table; none if fewer than two tasks have exactly one card.
    """
    cards: dict[str, list[Comparison]] = {}
    for findings in all_findings:
        cards.setdefault(findings.comparison.task, []).append(findings.comparison)
    single = [comparisons[0] for comparisons in cards.values() if len(comparisons) == 1]
    if len(single) < 2:
        return None
    groups: dict[tuple[str, ...], list[tuple[TableRow, float]]] = {}
    for arm in _distinct_arms(single):
        where = [comparison.find_arm(arm.method, arm.keep) for comparison in single]
        blocks = [
            None if one is None or one.keep is None else comparison.block_of(one)
            for one, comparison in zip(where, single, strict=True)
        ]
        # Rows are in the same group only if they are in the same block of every task.
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
        line = TableRow(arm.method, (*shares, mean), arm.role)
        groups.setdefault(heading, []).append((line, -1.0 if mean is None else mean))
    left = [task for task, comparisons in cards.items() if len(comparisons) > 1]
    notes = [f"{task} was run under several cards, so it is in no table with others." for task in left]
    return Table(
        f"tasks-{slug(single[0].model)}",
        f"{single[0].model}: all tasks",
        (*(comparison.task for comparison in single), "Rel. %"),
        tuple(
            RowGroup(" / ".join(dict.fromkeys(filter(None, heading))) or NO_BUDGET, _sorted_by_mean(lines))
            for heading, lines in groups.items()
        ),
        ("All: types of question that count in the headline. Rel.: mean ratio to the unpruned model.", *notes),
    )


def measures_table(comparison: Comparison, task: Task) -> Table | None:
    """Return the measures that a task computes from all grades, such as POPE's F1, with a column for each measure.

    Args:
        comparison: a comparison of the task.
        task: the task.

    Returns:
        The table; none if the task has no measure but its metric.
    """
    groups = []
    names: dict[str, None] = {}
    for heading, arms in _arms_by_heading(comparison):
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
            RowGroup(
                heading,
                tuple(
                    TableRow(
                        arm.method, tuple(_measure_cell([cell[name] for cell in cells]) for name in names), arm.role
                    )
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
    """Return the mean, over types of question, of the ratio to the unpruned model; usual in the literature.

    Args:
        comparison: where the arm is from.
        arm: the method at a budget.
        headline_only: whether to return the ratio over the whole headline instead.
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
    """Return the heading of a block: its budget, and its visual tokens per layer."""
    return f"keep {block.keep}: {block.tokens:.3g} visual tokens per layer"


def _row(
    comparison: Comparison,
    arm: Arm,
    kinds: Sequence[str],
    best: bool = False,
    difference: PairedDifference | None = None,
) -> TableRow:
    cells: list[TableCell] = [Share(comparison.interval(arm, kind)) for kind in kinds]
    ratio = relative(comparison, arm)
    cells += [
        Share(comparison.interval(arm), best),
        None if ratio is None else 100 * ratio,
        *difference_cells(difference),
        *((_kept_share(arm),) if _has_needed_tokens(comparison) else ()),
        f"{arm.tokens:.1f}",
        f"{arm.flops / 1e9:.4g}",
        f"{arm.ms:.3g}",
    ]
    return TableRow(arm.method, tuple(cells), arm.role)


def _has_needed_tokens(comparison: Comparison) -> bool:
    """Return whether the needed tokens are known for any question."""
    return any(np.isfinite(arm.recall).any() for arm in comparison.arms)


def _kept_share(arm: Arm) -> str | None:
    """Return the share of the needed tokens that are kept, over all questions for which they are known."""
    known = arm.recall[np.isfinite(arm.recall)]
    return f"{100 * known.mean():.1f}" if len(known) else None


def _block_rows(findings: Findings, block: Block, kinds: Sequence[str]) -> tuple[TableRow, ...]:
    comparison = findings.comparison
    best = max((comparison.score(arm) for arm in block.arms), default=0.0)
    lines = []
    for arm in block.arms:
        one = next((one for one in findings.controls if one.arm is arm), None)
        first = len(block.arms) > 1 and comparison.score(arm) >= best
        lines.append(_row(comparison, arm, kinds, first, None if one is None else one.difference))
    bounds = [arm for arm in block.bounds if arm.role != "inverted"]
    return (*lines, *(_row(comparison, arm, kinds) for arm in bounds))


def _arms_by_heading(comparison: Comparison) -> list[tuple[str, list[Arm]]]:
    """Return all arms but inverted ones, under the headings of the main table."""
    free = [arm for arm in comparison.arms if arm.role in ("unpruned", "text_only")]
    blocks = [
        (block_name(block), [*block.arms, *(arm for arm in block.bounds if arm.role != "inverted")])
        for block in comparison.blocks
    ]
    return [(NO_BUDGET, free), *blocks] if free else blocks


def _measure_cell(values: Sequence[float]) -> TableCell:
    mean = float(np.mean(values))
    if not np.isfinite(mean):
        return None
    # Measures may have any magnitude; a divergence may be tiny.
    return f"{mean:#.2g}" if 0 < abs(mean) < 0.01 else f"{mean:.3f}"


def _notes(findings: Findings) -> tuple[str, ...]:
    comparison = findings.comparison
    notes = [
        f"Right answers in %, ± the larger half of a 95 % interval over {len(set(comparison.images))} pictures; "
        f"{len(comparison.samples)} questions a cell; card {comparison.card_hash}.",
        "Best of a block in bold, where there is something to rank. GFLOPs are counted, ms are measured."
        + (
            f" {NEEDED}: of the tokens that answers need, those that stayed."
            if _has_needed_tokens(findings.comparison)
            else ""
        ),
        mcnemar_note(comparison, picked=True),
    ]
    for kind, (right, count) in comparison.left_out.items():
        notes.append(
            f"† {kind}: the unpruned model has {100 * right:.1f} % right of {count}, below 80 %, so it counts neither "
            "in All nor in Rel."
        )
    return tuple(notes)


def _kinds_with_last(kinds: Iterable[str], last: set[str]) -> list[str]:
    return sorted(kinds, key=lambda kind: kind in last)


def _distinct_arms(comparisons: Sequence[Comparison]) -> list[Arm]:
    found: dict[tuple[str, str | None], Arm] = {}
    for comparison in comparisons:
        for arm in comparison.arms:
            if arm.role != "inverted":
                found.setdefault((arm.method, arm.keep), arm)
    return list(found.values())


def _sorted_by_mean(lines: Sequence[tuple[TableRow, float]]) -> tuple[TableRow, ...]:
    return tuple(line for line, _ in sorted(lines, key=lambda pair: -pair[1]))
