"""Tables of ranks, of wins and losses, and of the order on two models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tokensieve.study.analysis import significance
from tokensieve.study.analysis.comparison import Arm, Comparison
from tokensieve.study.analysis.findings import Findings
from tokensieve.study.analysis.transfers import OrderTransfer
from tokensieve.study.report.tables.differences import single_group
from tokensieve.study.report.tables.values import NOTHING, RowGroup, Table, TableCell, TableRow, slug
from tokensieve.study.statistics import Rank


def rank_table(findings: Findings) -> Table | None:
    """Return the rank of every arm in its block, with an interval; arms of the same blocks are a group."""
    comparison = findings.comparison
    cells: dict[str, dict[str, TableCell]] = {}
    ledgers: dict[str, list[str]] = {}
    for block in comparison.blocks:
        places = ranks_of(comparison, block.arms)
        for arm, rank in zip(block.arms, places or (), strict=bool(places)):
            cells.setdefault(arm.method, {})[block.keep] = f"{rank.rank:.3g} [{rank.low}, {rank.high}]"
            ledgers.setdefault(arm.method, []).append(f"{block.tokens:.3g}")
    if not cells:
        return None
    keeps = [keep for keep in comparison.keeps if any(keep in row for row in cells.values())]
    groups: dict[str, list[TableRow]] = {}
    for name, row in cells.items():
        heading = f"{' / '.join(ledgers[name])} visual tokens per layer"
        groups.setdefault(heading, []).append(TableRow(name, tuple(row.get(keep) for keep in keeps)))
    return Table(
        f"ranks-{slug(comparison.title)}",
        f"{comparison.title}: ranks",
        tuple(keeps),
        tuple(RowGroup(heading, tuple(lines)) for heading, lines in groups.items()),
        (f"Rank by {comparison.counted}, and the places that it may truly have, all together with 95 %.",),
    )


def transfer_table(transfers: Sequence[OrderTransfer]) -> Table:
    """Return the agreement of models on the order of methods, with a group for every two models."""
    known = list(dict.fromkeys(one.methods for one in transfers))
    sets = {
        methods: f"{len(methods)} methods" + (f" ({number})" if [*map(len, known)].count(len(methods)) > 1 else "")
        for number, methods in enumerate(known, start=1)
    }
    groups: dict[str, dict[str, dict[str, TableCell]]] = {}
    for one in transfers:
        rows = groups.setdefault(f"{one.first.model} and {one.second.model}", {})
        tau = NOTHING if one.transfer.tau is None else two_digits(one.transfer.tau)
        rows.setdefault(sets[one.methods], {})[one.keep] = (
            f"{tau} [{two_digits(one.transfer.low)}, {two_digits(one.transfer.high)}]"
        )
    keeps = tuple(dict.fromkeys(one.keep for one in transfers))
    task = transfers[0].first.task
    return Table(
        f"transfer-{slug(task)}",
        f"{task}: order of methods on two models",
        keeps,
        tuple(
            RowGroup(
                models, tuple(TableRow(label, tuple(row.get(keep) for keep in keeps)) for label, row in rows.items())
            )
            for models, rows in groups.items()
        ),
        (
            "Kendall's τ-b of the two orders: 1 the same, -1 turned around; and where it may truly lie with 95 %, by "
            "intervals of all pairs of methods on both models together.",
            *(f"{name}: {', '.join(methods)}." for methods, name in sets.items()),
        ),
    )


def record_table(findings: Findings) -> Table | None:
    """Return wins, ties and losses of every two methods over the budgets at which all were measured."""
    comparison = findings.comparison
    full = [block for block in comparison.blocks if len(block.arms) > 1]
    if not full:
        return None
    common = [arm.method for arm in full[0].arms if all(any(a.method == arm.method for a in b.arms) for b in full)]
    mask = comparison.headline
    blocks = [
        (
            np.array([next(a for a in block.arms if a.method == name).correct[mask] for name in common]),
            comparison.clusters[mask],
        )
        for block in full
    ]
    record = significance.win_tie_loss(blocks) if len(common) > 1 else None
    if record is None:
        return None
    lines = [
        TableRow(
            name,
            tuple(
                None
                if one == other
                else f"{record.wins[one][other]} / {record.ties[one][other]} / {record.losses[one][other]}"
                for other in range(len(common))
            ),
        )
        for one, name in enumerate(common)
    ]
    notes = (f"Wins / ties / losses over {len(full)} budgets; a win is shown by intervals of all pairs together.",)
    return single_group(comparison, "record", "wins, ties and losses", common, lines, notes)


# ------------------------------------------------------------------------------------------------------------- words


def ranks_of(comparison: Comparison, arms: Sequence[Arm]) -> list[Rank] | None:
    """Return the rank of each arm over the headline; none if there is nothing to rank."""
    mask = comparison.headline
    if len(arms) < 2:
        return None
    return significance.rank_intervals(np.array([arm.correct[mask] for arm in arms]), comparison.clusters[mask])


def two_digits(value: float) -> str:
    """Return a number with two digits after the point."""
    # Rounded first, so that nothing is printed as minus zero.
    return f"{round(value, 2) + 0.0:.2f}"
