"""Small multiples: a panel for each type of question, and one for each method."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tokensieve.study.analysis.comparison import CONTROL_ROLES, Comparison
from tokensieve.study.analysis.findings import Findings
from tokensieve.study.report.figures.curves import (
    arms_by_name,
    bounds,
    bounds_caption,
    curve,
    interval_points,
    token_axis,
)
from tokensieve.study.report.figures.style import INK, Drawing, LineStyle, new_figure
from tokensieve.study.report.tables.values import slug

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS = 3
"""The most panels in a row."""
NEAR = 0.2
"""The smallest distance of two ticks, as a part of the axis of a panel."""
FEW = 3
"""With so few methods, their bands can be read in one plot, and need no panels."""


def by_kind(findings: Findings, styles: dict[str, LineStyle]) -> Drawing | None:
    """Draw right answers against visual tokens, with a panel for every type of question."""
    comparison = findings.comparison
    kinds = [kind for kind in dict.fromkeys(comparison.kinds) if kind]
    if len(kinds) < 2:
        return None

    def draw(axes: Axes, kind: str) -> None:
        for number, (arms, one) in enumerate(arms_by_name(comparison, styles)):
            points = interval_points(comparison, arms, lambda arm: arm.tokens, kind)
            curve(axes, arms[0].method, points, one, f"curve-{number}-{kinds.index(kind)}")
        bounds(axes, comparison, lambda arm: arm.tokens, comparison.of_kind(kind), named=False)
        out = kind in comparison.left_out
        axes.set_title(f"{kind}{' †' if out else ''} (n = {int(comparison.of_kind(kind).sum())})", loc="left")

    figure, first = _panels(comparison, kinds, draw)
    handles, labels = first.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
    left = ", ".join(comparison.left_out)
    return Drawing(
        f"kinds-{slug(comparison.title)}",
        f"{comparison.title}: by type of question",
        "Against mean visual tokens per decoder layer. The tables have the intervals."
        + bounds_caption(comparison)
        + (f" †: below 80 % for the unpruned model, left out of the headline ({left})." if left else ""),
        figure,
        wide=True,
        switches=tuple(arms[0].method for arms, _ in arms_by_name(comparison, styles)),
    )


def by_method(findings: Findings, styles: dict[str, LineStyle]) -> Drawing | None:
    """Draw right answers against visual tokens, with a panel for every method, its interval, and the controls."""
    comparison = findings.comparison
    if len(comparison.methods) <= FEW:
        return None
    named = arms_by_name(comparison, styles)

    def draw(axes: Axes, method: str) -> None:
        for arms, one in named:
            points = interval_points(comparison, arms, lambda arm: arm.tokens)
            xs, ys = [point[0] for point in points], [point[1] for point in points]
            if arms[0].role in CONTROL_ROLES:
                axes.plot(xs, ys, color=INK, alpha=0.6, linestyle=one.dash, linewidth=0.9, label=arms[0].method)
            elif arms[0].method != method:
                axes.plot(xs, ys, color=INK, alpha=0.12, linewidth=0.9, zorder=1)
            else:
                curve(axes, method, points, one, band=True)
        bounds(axes, comparison, lambda arm: arm.tokens, comparison.headline, named=False)
        axes.set_title(method, loc="left")

    figure, first = _panels(comparison, comparison.methods, draw)
    controls = [
        pair for pair in zip(*first.get_legend_handles_labels(), strict=True) if pair[1] not in comparison.methods
    ]
    if controls:
        handles, labels = zip(*controls, strict=True)
        figure.legend(handles, labels, loc="outside lower center", ncols=5)
    said = " Dark and broken: controls." if controls else ""
    return Drawing(
        f"methods-{slug(comparison.title)}",
        f"{comparison.title}: every method by itself",
        f"{comparison.counted.capitalize()} against mean visual tokens per decoder layer. In each panel one method "
        f"with its 95 % interval over pictures; pale: the other methods.{said}{bounds_caption(comparison)} Whether a "
        "method beats controls is decided by paired differences, which are tighter than these intervals.",
        figure,
        wide=True,
    )


def _panels(comparison: Comparison, names: Sequence[str], draw: Callable[[Any, str], None]) -> tuple[Figure, Axes]:
    """Return a figure with a panel for each name, and its first panel."""
    across = min(ACROSS, len(names))
    down = math.ceil(len(names) / across)
    figure = new_figure(7.6, 2.1 * down + 0.8)
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for number, (axes, name) in enumerate(itertools.zip_longest(grid.flat, names)):
        if name is None:
            axes.set_visible(False)
            continue
        draw(axes, name)
        # The lowest panel of each column has tick labels, also if it is not in the last row.
        lowest = number + across >= len(names)
        axes.tick_params(labelbottom=lowest)
        if lowest:
            axes.set_xlabel("visual tokens per layer (log)")
    for axes, _ in zip(grid.flat, names, strict=False):
        # Ticks depend on the limits, which all panels share.
        token_axis(axes, comparison, label=False, near=NEAR)
    figure.supylabel(f"{comparison.counted}, %", fontsize=9)
    return figure, grid[0][0]
