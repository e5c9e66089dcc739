"""Figures of kept tokens: overlaps, shares of operands, and maps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tokensieve.study import statistics
from tokensieve.study.analysis.comparison import Arm, Block, Comparison
from tokensieve.study.analysis.findings import Findings
from tokensieve.study.analysis.measured import Floats
from tokensieve.study.report.figures.style import PALETTE, Drawing, LineStyle, new_figure
from tokensieve.study.report.tables.accuracy import block_name
from tokensieve.study.report.tables.values import method_label, slug

if TYPE_CHECKING:
    from matplotlib.axes import Axes


BLACK, WHITE = "#111111", "#ffffff"


# ------------------------------------------------------------------------------------------------------ what was kept


def middle_block(comparison: Comparison) -> Block | None:
    """Return the block with the middle budget among those with most arms; methods differ most there."""
    most = max((len(block.arms) for block in comparison.blocks), default=0)
    full = [block for block in comparison.blocks if len(block.arms) == most]
    return full[len(full) // 2] if full else None


def overlap(findings: Findings, styles: dict[str, LineStyle]) -> Drawing | None:
    """Draw the overlap of the kept tokens of every two methods."""
    comparison = findings.comparison
    block = middle_block(comparison)
    # Oracles are left out: beyond needed tokens they keep the same random tokens as `random`.
    arms = [arm for arm in block.arms if _has_kept_ids(arm)] if block is not None else []
    order = list(styles)
    arms = sorted((arm for arm in arms if arm.method in order), key=lambda arm: order.index(arm.method))
    if block is None or len(arms) < 2:
        return None
    # One seed is enough: other seeds of a random draw have the same overlap on average.
    last = [[frozenset(row[-1]) if row else frozenset() for row in arm.cells[0].kept] for arm in arms]
    values = np.array(statistics.overlaps(last))
    names = [arm.method for arm in arms]
    figure = new_figure(4.6, 4.4)
    axes = figure.subplots()
    heat_map(axes, values, "viridis", 0, 1)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    for row, column in np.ndindex(values.shape):
        shade = BLACK if values[row, column] > 0.55 else WHITE
        axes.text(column, row, f"{values[row, column]:.2f}", ha="center", va="center", fontsize=6.5, color=shade)
    visual = round(float(np.mean(arms[0].cells[0].visual)))
    kept = min(visual, round(float(np.mean([len(one) for one in last[0]]))))
    chance = statistics.chance_jaccard(visual, kept, kept)
    return Drawing(
        f"overlap-{slug(comparison.title)}",
        f"{comparison.title}: overlap of what methods keep",
        f"Jaccard index of the kept tokens, the mean over samples, at {block_name(block)}. Two sets drawn at random "
        f"would have about {chance:.2f}.",
        figure,
    )


def shares(findings: Findings, styles: dict[str, LineStyle]) -> Drawing | None:
    """Draw, for each operand of a composition, the share of kept tokens that it alone would have kept."""
    comparison = findings.comparison
    composed: dict[str, list[Arm]] = {}
    for arm in comparison.arms:
        if arm.role == "method" and any(stage for row in arm.cells[0].shares for stage in row if len(stage) > 1):
            composed.setdefault(arm.method, []).append(arm)
    if not composed:
        return None
    figure = new_figure(4.6, 1.0 + 1.75 * len(composed))
    grid = figure.subplots(len(composed), 1, squeeze=False, sharex=True)
    for axes, (name, arms) in zip(grid.flat, composed.items(), strict=True):
        operand_bars(axes, name, arms, findings)
    grid.flat[-1].set_xlabel("kept tokens that were among the operand's own best, %")
    return Drawing(
        f"shares-{slug(comparison.title)}",
        f"{comparison.title}: what operands gave to compositions",
        "Of the tokens a composition kept, the share that an operand would have kept alone at the same budget. 100 % "
        "for one operand means that the others decided nothing.",
        figure,
    )


def maps(findings: Findings, styles: dict[str, LineStyle]) -> Drawing | None:
    """Draw how often each position of the grid was kept."""
    comparison = findings.comparison
    block = middle_block(comparison)
    arms = list(block.arms) if block is not None else []
    # Methods in other blocks, such as those that cut inside the decoder, have maps, too.
    keep = None if block is None else block.keep
    arms += [arm for arm in comparison.arms if arm.keep == keep and arm.role == "method" and arm not in arms]
    drawn = [(arm, where) for arm in arms if (where := keep_frequency(arm)) is not None]
    drawn.sort(key=lambda pair: list(styles).index(pair[0].method))
    if block is None or not drawn:
        return None
    across = min(5, len(drawn))
    down = math.ceil(len(drawn) / across)
    figure = new_figure(7.6, 1.75 * down + 0.3)
    grid = figure.subplots(down, across, squeeze=False)
    # The scale is cut: a fixed pattern is one everywhere, and all other maps would be dark beside it.
    top = min(1.0, 4 * max(float(where.mean()) for _, where in drawn))
    for axes, pair in itertools.zip_longest(grid.flat, drawn):
        if pair is None:
            axes.set_visible(False)
            continue
        heat_map(axes, pair[1], "viridis", 0, top)
        axes.set_title(pair[0].method, loc="left", fontsize=8.5)
        axes.set_xticks([])
        axes.set_yticks([])
    figure.colorbar(
        grid.flat[0].images[0], ax=grid, shrink=0.8, label="share of samples that kept it", pad=0.01, extend="max"
    )
    return Drawing(
        f"maps-{slug(comparison.title)}",
        f"{comparison.title}: where tokens are kept",
        f"How often each place of the grid stayed, at keep {block.keep}. A pattern that does not depend on the picture "
        "is a position bias.",
        figure,
        wide=True,
    )


def keep_frequency(arm: Arm) -> Floats | None:
    """Return how often each position was kept at the last stage, float64 `[rows, columns]`; none without one grid."""
    grid = arm.cells[0].cell.grid
    if grid is None or not _has_kept_ids(arm):
        return None
    rows, columns = grid
    counts = np.zeros(rows * columns)
    samples = 0
    for cell in arm.cells:
        for row in cell.kept:
            if row and any(token >= rows * columns for token in row[-1]):
                return None
            if row:
                counts[list(row[-1])] += 1
                samples += 1
    return (counts / max(1, samples)).reshape(rows, columns)


def _has_kept_ids(arm: Arm) -> bool:
    return any(row and row[-1] for row in arm.cells[0].kept)


def heat_map(axes: Axes, values: Floats, colours: str, low: float, high: float) -> Any:
    """Draw a matrix as an image, and return the image."""
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    return axes.imshow(values, cmap=colours, vmin=low, vmax=high, interpolation="nearest")


def operand_bars(axes: Axes, name: str, arms: Sequence[Arm], findings: Findings) -> None:
    """Draw the share of each operand at every budget of a composition."""
    ordered = sorted(arms, key=lambda arm: arm.tokens)
    operands = list(
        dict.fromkeys(key for arm in ordered for row in arm.cells[0].shares for stage in row for key in stage)
    )
    high = 0.8 / len(operands)
    for number, operand in enumerate(operands):
        values = [
            100 * float(np.mean([row[-1][operand] for row in arm.cells[0].shares if row and operand in row[-1]] or [0]))
            for arm in ordered
        ]
        places = [place + (number - (len(operands) - 1) / 2) * high for place in range(len(ordered))]
        colour = PALETTE[number % len(PALETTE)]
        axes.barh(places, values, height=high * 0.9, color=colour, label=operand)
        for place, value in zip(places, values, strict=True):
            axes.text(min(value, 98) - 1, place, operand, ha="right", va="center", fontsize=6.5, color=WHITE)
    axes.set_yticks(range(len(ordered)), [f"keep {arm.keep}" for arm in ordered])
    axes.set_xlim(0, 100)
    structure = findings.structures.get(name)
    axes.set_title(name if structure is None else method_label(name, structure.formula), loc="left")
    axes.grid(visible=False, axis="y")
