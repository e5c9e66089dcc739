"""The table of what methods have right where a smaller image fails."""

from __future__ import annotations

from collections.abc import Sequence

from tokensieve.study.analysis.comparison import Comparison
from tokensieve.study.analysis.filtered import FilteredBlock
from tokensieve.study.report.tables.accuracy import block_name
from tokensieve.study.report.tables.values import RowGroup, Share, Table, TableRow, slug

NOTE = (
    "Right answers in per cent, on questions that the unpruned model has right, and with an image shrunk to as many "
    "tokens wrong, as VTC-Bench filters. Each budget has its own questions. Intervals hold 95 %; nothing is tested."
)


def filtered_table(comparison: Comparison, blocks: Sequence[FilteredBlock]) -> Table | None:
    """Return a table with a group for every block; none if all have too few questions."""
    groups = tuple(
        RowGroup(
            f"{block_name(one.block)}; {one.left} of {one.asked} questions",
            tuple(TableRow(arm.method, (Share(share),), arm.role) for arm, share in one.shares),
        )
        for one in blocks
        if one.shares
    )
    if not groups:
        return None
    title = f"{comparison.title}: where a smaller image fails"
    return Table(f"filtered-{slug(comparison.title)}", title, ("Right",), groups, (NOTE,))
