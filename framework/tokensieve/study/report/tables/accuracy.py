"""Tables of right answers: the main table of a comparison, and measures of a task."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tokensieve.study.analysis.comparison import Arm, Block, Comparison
from tokensieve.study.analysis.findings import Findings
from tokensieve.study.analysis.significance import PairedDifference
from tokensieve.study.report.published import (
    PublishedResult,
    published_in,
    published_notes,
    published_relative,
)
from tokensieve.study.report.tables.differences import difference_cells, mcnemar_note
from tokensieve.study.report.tables.values import NEEDED, RowGroup, Share, Table, TableCell, TableRow, slug
from tokensieve.tasks.base import Task

# ------------------------------------------------------------------------------------------- from findings to values


def accuracy_table(findings: Findings, published: Sequence[PublishedResult] = ()) -> Table:
    """Return the main table of a comparison: a column for every type of question, a group for every block.

    Args:
        findings: the findings of the comparison.
        published: published results; those of this model and task get rows of their own.
    """
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
    ordered = _kinds_with_last(shown, out)
    stood: list[PublishedResult] = []

    def published_rows(keep: str | None) -> tuple[TableRow, ...]:
        """Return rows of the published results at a budget; they are in the first group of the budget only."""
        own = [one for one in published_in(published, comparison.model, keep, [comparison.task]) if one not in stood]
        stood.extend(own)
        return tuple(
            TableRow(
                one.label,
                tuple(
                    f"{one.values[comparison.task]:.1f}"
                    if column == "All"
                    else published_relative(one, published, [comparison.task])
                    if column == "Rel. %"
                    else None
                    for column in columns
                ),
                "published",
            )
            for one in own
        )

    free = _without_budget(comparison)
    if free or published_in(published, comparison.model, None, [comparison.task]):
        rows = tuple(_row(comparison, arm, ordered) for arm in free)
        groups.append(RowGroup(_whole_name(comparison, free), (*rows, *published_rows(None))))
    for block in comparison.blocks:
        lines = (*_block_rows(findings, block, ordered), *published_rows(block.keep))
        groups.append(RowGroup(block_heading(comparison, block), lines))
    return Table(
        f"accuracy-{slug(comparison.title)}",
        comparison.title,
        columns,
        tuple(groups),
        (*_notes(findings), *published_notes(stood)),
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


def relative(comparison: Comparison, arm: Arm) -> float | None:
    """Return the mean, over types of question, of the ratio to the unpruned model; usual in the literature."""
    unpruned = comparison.unpruned
    if unpruned is None:
        return None
    masks = [comparison.of_kind(kind) for kind in comparison.headline_kinds]
    whole = [float(unpruned.correct[mask].mean()) for mask in masks]
    if min(whole) <= 0:
        return None
    return float(np.mean([arm.correct[mask].mean() / full for mask, full in zip(masks, whole, strict=True)]))


def block_name(block: Block) -> str:
    """Return the heading of a block: its budget, and its visual tokens per layer."""
    return f"keep {block.keep}: {block.tokens:.3g} visual tokens per layer"


def block_heading(comparison: Comparison, block: Block) -> str:
    """Return the heading of a block with how many fewer tokens these are, such as `... (↓ 88.9 %)`."""
    whole = all_tokens(comparison)
    return block_name(block) + fewer(block.tokens, whole)


def fewer(tokens: float, whole: float) -> str:
    """Return how many fewer tokens these are than all, such as ` (↓ 88.9 %)`; nothing if there are none at all."""
    return f" (↓ {100 * (1 - tokens / whole):.1f} %)" if whole else ""


def all_tokens(comparison: Comparison) -> float:
    """Return the mean visual tokens of the unpruned model, per layer; of the prompts, if it was not measured."""
    if comparison.unpruned is not None:
        return comparison.unpruned.tokens
    return max((float(np.mean(arm.cells[0].visual)) for arm in comparison.arms), default=0.0)


def whole_name(tokens: float, roles: Iterable[str]) -> str:
    """Return the heading of the rows without a budget, of these roles, where all tokens are so many per layer."""
    return f"All {tokens:.3g} visual tokens per layer (100 %)" + (", and none" if "text_only" in roles else "")


def _whole_name(comparison: Comparison, arms: Sequence[Arm]) -> str:
    return whole_name(all_tokens(comparison), [arm.role for arm in arms])


def _without_budget(comparison: Comparison) -> list[Arm]:
    """Return the arms without a budget, the unpruned model first."""
    return [arm for role in ("unpruned", "text_only") for arm in comparison.arms if arm.role == role]


def _row(
    comparison: Comparison,
    arm: Arm,
    kinds: Sequence[str],
    best: Mapping[str | None, float] | None = None,
    difference: PairedDifference | None = None,
) -> TableRow:
    best = best or {}

    def share(kind: str | None) -> Share:
        found = comparison.interval(arm, kind)
        return Share(found, found.estimate >= best.get(kind, math.inf))

    cells: list[TableCell] = [share(kind) for kind in kinds]
    cells += [
        share(None),
        _relative_cell(comparison, arm, best.get("Rel. %", math.inf)),
        *difference_cells(difference),
        *((_kept_share(arm),) if _has_needed_tokens(comparison) else ()),
        f"{arm.tokens:.1f}",
        f"{arm.flops / 1e9:.4g}",
        f"{arm.ms:.3g}",
    ]
    return TableRow(arm.method, tuple(cells), arm.role)


def _relative_cell(comparison: Comparison, arm: Arm, best: float) -> TableCell:
    """Return the relative average with its interval, or without one where there is none."""
    ratio, found = relative(comparison, arm), comparison.relative(arm)
    if ratio is None or found is None:
        return None if ratio is None else 100 * ratio
    return Share(found, ratio >= best)


def _has_needed_tokens(comparison: Comparison) -> bool:
    """Return whether the needed tokens are known for any question."""
    return any(np.isfinite(arm.recall).any() for arm in comparison.arms)


def _kept_share(arm: Arm) -> str | None:
    """Return the share of the needed tokens that are kept, over all questions for which they are known."""
    known = arm.recall[np.isfinite(arm.recall)]
    return f"{100 * known.mean():.1f}" if len(known) else None


def _block_rows(findings: Findings, block: Block, kinds: Sequence[str]) -> tuple[TableRow, ...]:
    comparison = findings.comparison
    best: dict[str | None, float] = {}
    if len(block.arms) > 1:
        best = {kind: max(comparison.interval(arm, kind).estimate for arm in block.arms) for kind in (*kinds, None)}
        best["Rel. %"] = max(relative(comparison, arm) or 0.0 for arm in block.arms)
    lines = []
    for arm in block.arms:
        one = next((one for one in findings.controls if one.arm is arm), None)
        lines.append(_row(comparison, arm, kinds, best, None if one is None else one.difference))
    bounds = [arm for arm in block.bounds if arm.role != "inverted"]
    return (*lines, *(_row(comparison, arm, kinds) for arm in bounds))


def _arms_by_heading(comparison: Comparison) -> list[tuple[str, list[Arm]]]:
    """Return all arms but inverted ones, under the headings of the main table."""
    free = _without_budget(comparison)
    blocks = [
        (block_heading(comparison, block), [*block.arms, *(arm for arm in block.bounds if arm.role != "inverted")])
        for block in comparison.blocks
    ]
    return [(_whole_name(comparison, free), free), *blocks] if free else blocks


def _measure_cell(values: Sequence[float]) -> TableCell:
    mean = float(np.mean(values))
    if not np.isfinite(mean):
        return None
    # Measures may have any magnitude; a divergence may be tiny.
    return f"{mean:#.2g}" if 0 < abs(mean) < 0.01 else f"{mean:.3f}"


def _notes(findings: Findings) -> tuple[str, ...]:
    comparison = findings.comparison
    notes = [
        f"{comparison.counted.capitalize()} in %, ± the larger half of a 95 % interval over "
        f"{len(set(comparison.images))} pictures; {len(comparison.samples)} questions a cell; "
        f"card {comparison.card_hash}.",
        "Rel.: the mean, over types of question, of the ratio to the unpruned model. Best of a block in bold, where "
        "there is something to rank. GFLOPs are counted, ms are measured."
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
