"""The table that papers print: a model over several benchmarks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tokensieve.study.analysis.benchmarks import BenchmarkAverage, Benchmarks
from tokensieve.study.analysis.comparison import CONTROL_ROLES
from tokensieve.study.report.published import (
    PublishedResult,
    published_in,
    published_notes,
    published_relative,
)
from tokensieve.study.report.tables.accuracy import all_tokens, block_name, fewer, whole_name
from tokensieve.study.report.tables.values import RowGroup, Share, Table, TableCell, TableRow, slug

RELATIVE = "Rel. %"
"""The column with the relative average."""


def task_table(benchmarks: Benchmarks, published: Sequence[PublishedResult] = ()) -> Table:
    """Return the table of a model over several tasks, with a column for every task that has one card.

    Args:
        benchmarks: those of one model.
        published: published results; those of this model get rows of their own.
    """
    tasks = [comparison.task for comparison in benchmarks.comparisons]
    groups: dict[tuple[str, ...], list[BenchmarkAverage]] = {}
    for average in benchmarks.averages:
        # Rows are in the same group only if they are in the same block of every task.
        heading = tuple("" if block is None else block_name(block) for block in average.blocks)
        groups.setdefault(heading, []).append(average)
    shown: list[PublishedResult] = []
    made = []
    # The unpruned model is first: all others are relative to it.
    for averages in sorted(groups.values(), key=lambda found: found[0].keep is not None):
        keep = averages[0].keep
        own = [one for one in published_in(published, benchmarks.model, keep, tasks) if one not in shown]
        shown += own
        rows = (*_rows(benchmarks, averages), *(_published_row(one, published, tasks) for one in own))
        made.append(RowGroup(_heading(benchmarks, averages), rows))
    left = [f"{task} was run under several cards, so it is in no table with others." for task in benchmarks.left_out]
    return Table(
        f"tasks-{slug(benchmarks.model)}",
        f"{benchmarks.model}: all tasks",
        (*tasks, RELATIVE, "Tokens/layer", "GFLOPs"),
        tuple(made),
        (
            "Right answers in %, over the types of question that count in the headline. Rel.: the mean, over tasks, of "
            "the ratio to the unpruned model. ±: the larger half of a 95 % interval over pictures, which takes tasks "
            "for independent. Best of a block in bold. Tokens and counted GFLOPs are means over tasks.",
            *left,
            *published_notes(shown),
        ),
    )


def _heading(benchmarks: Benchmarks, averages: Sequence[BenchmarkAverage]) -> str:
    """Return the heading of rows with the same blocks."""
    whole = float(np.mean([all_tokens(comparison) for comparison in benchmarks.comparisons]))
    if averages[0].keep is None:
        return whole_name(whole, [one.role for one in averages])
    kept = float(np.mean([one.tokens for one in averages]))
    named = f"keep {averages[0].keep}: {kept:.3g} visual tokens per layer"
    return named + (fewer(kept, whole) if averages[0].whole else "")


def _rows(benchmarks: Benchmarks, averages: Sequence[BenchmarkAverage]) -> tuple[TableRow, ...]:
    """Return the rows of a group: the unpruned model, then the highest relative average first, bounds last."""
    ranked = [one for one in averages if one.keep is not None and (one.role == "method" or one.role in CONTROL_ROLES)]
    columns = range(len(benchmarks.comparisons))
    best = [math.inf] * (len(columns) + 1)
    if len(ranked) > 1:
        best = [max(_score(benchmarks, one, column) for one in ranked) for column in columns]
        best.append(max((one.relative.estimate for one in ranked if one.relative is not None), default=math.inf))
    lines = []
    for one in averages:
        tops = best if one in ranked else [math.inf] * len(best)
        cells: list[TableCell] = []
        for column, arm in enumerate(one.arms):
            score = _score(benchmarks, one, column)
            found = None if arm is None else benchmarks.comparisons[column].interval(arm)
            cells.append(None if found is None else Share(found, score >= tops[column]))
        cells.append(None if one.relative is None else Share(one.relative, one.relative.estimate >= tops[-1]))
        cells += [f"{one.tokens:.1f}", f"{one.flops / 1e9:.4g}"] if one.whole else [None, None]
        place = -1.0 if one.relative is None else one.relative.estimate
        order = (one.role != "unpruned", one not in ranked, -place)
        lines.append((order, TableRow(one.method, tuple(cells), one.role)))
    return tuple(line for _, line in sorted(lines, key=lambda entry: entry[0]))


def _score(benchmarks: Benchmarks, one: BenchmarkAverage, column: int) -> float:
    """Return the share of right answers on a benchmark; minus infinity where it was not measured."""
    arm = one.arms[column]
    return -math.inf if arm is None else benchmarks.comparisons[column].interval(arm).estimate


def _published_row(one: PublishedResult, published: Sequence[PublishedResult], tasks: Sequence[str]) -> TableRow:
    values: list[TableCell] = [f"{one.values[task]:.1f}" if task in one.values else None for task in tasks]
    return TableRow(one.label, (*values, published_relative(one, published, tasks), None, None), "published")
