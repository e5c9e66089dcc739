"""The critical-difference diagram."""

from __future__ import annotations

import math

import numpy as np

from tokensieve.study.analysis import significance
from tokensieve.study.analysis.findings import Findings
from tokensieve.study.report.figures.kept import middle_block
from tokensieve.study.report.figures.style import INK, MARKERS, Drawing, LineStyle, new_figure
from tokensieve.study.report.tables.accuracy import block_name
from tokensieve.study.report.tables.values import slug

# ------------------------------------------------------------------------------------------------------------- ranks


def critical_difference(findings: Findings, styles: dict[str, LineStyle]) -> Drawing | None:
    """Draw mean ranks over images, with bars over methods that do not differ significantly."""
    comparison = findings.comparison
    block = middle_block(comparison)
    if block is None or len(block.arms) < 3:
        return None
    mask = comparison.headline
    ranks = significance.friedman_by_image(
        np.array([arm.correct[mask] for arm in block.arms]), comparison.clusters[mask]
    )
    if ranks is None:
        return None
    order = sorted(range(len(block.arms)), key=lambda place: ranks.ranks[place])
    half = math.ceil(len(order) / 2)
    figure = new_figure(4.6, 1.2 + 0.24 * half)
    axes = figure.subplots()
    axes.set_axis_off()
    last = len(order)
    axes.set_xlim(1 - 0.42 * last, last + 0.42 * last)
    axes.set_ylim(-half - 1.2, 1.4)
    axes.plot([1, last], [0, 0], color=INK, linewidth=0.8)
    for tick in range(1, last + 1):
        axes.plot([tick, tick], [0, 0.2], color=INK, linewidth=0.8)
        axes.text(tick, 0.35, str(tick), ha="center", fontsize=7)
    for place, number in enumerate(order):
        arm, rank = block.arms[number], float(ranks.ranks[number])
        left = place < half
        y = -0.9 - (place if left else last - 1 - place)
        end = 1 - 0.05 * last if left else last + 0.05 * last
        one = styles.get(arm.method)
        colour = INK if one is None else one.colour
        axes.plot([rank, rank, end], [0, y, y], color=colour, linewidth=1)
        axes.plot([rank], [0], color=colour, marker=MARKERS[0] if one is None else one.marker, markersize=4)
        text = f"{arm.method}  {rank:.2f}"
        axes.text(end, y, f"{text} " if left else f" {text}", ha="right" if left else "left", va="center", fontsize=7.5)
    for level, group in enumerate(ranks.groups):
        first, final = ranks.ranks[group[0]], ranks.ranks[group[-1]]
        y = -0.25 - 0.16 * (level % 4)
        axes.plot([first - 0.04, final + 0.04], [y, y], color=INK, alpha=0.55, linewidth=2.6, solid_capstyle="round")
    return Drawing(
        f"ranks-{slug(comparison.title)}",
        f"{comparison.title}: critical differences of ranks",
        f"Mean rank over pictures at {block_name(block)}, 1 is best; Friedman's p = {ranks.p_f:.2g}. A bar joins what "
        f"cannot be told apart: mean ranks that differ by less than {ranks.difference:.2f}.",
        figure,
    )
