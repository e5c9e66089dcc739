"""Curves: right answers and recall against tokens, FLOPs and time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tokensieve.study import statistics
from tokensieve.study.analysis import significance
from tokensieve.study.analysis.comparison import CONTROL_ROLES, Arm, Comparison
from tokensieve.study.analysis.findings import Findings
from tokensieve.study.analysis.measured import Mask
from tokensieve.study.report.figures.style import INK, SOFT_ALPHA, Drawing, LineStyle, new_figure
from tokensieve.study.report.tables.values import slug

if TYPE_CHECKING:
    from matplotlib.axes import Axes


NEAR = 0.25
"""The smallest distance of two ticks, in natural logarithms."""


# ------------------------------------------------------------------------------------------------------------ curves


def accuracy_tokens(findings: Findings, styles: dict[str, LineStyle]) -> Drawing:
    """Draw right answers against mean visual tokens per decoder layer."""
    comparison = findings.comparison
    figure = new_figure(height=4.9)
    axes = figure.subplots()
    _curves(axes, comparison, styles, lambda arm: arm.tokens)
    _token_axis(axes, comparison)
    axes.set_ylabel("right answers, %")
    legend(axes)
    return Drawing(
        f"tokens-{slug(comparison.title)}",
        f"{comparison.title}: right answers against visual tokens",
        "Mean visual tokens per decoder layer, as the ledger counted them. Bands are 95 % intervals over pictures. The "
        "thick pale line is the Pareto front: nothing has more right with as few tokens. Dotted: oracle and "
        "anti-oracle; dashed and dash-dotted: all tokens, and none.",
        figure,
    )


def accuracy_flops(findings: Findings, styles: dict[str, LineStyle]) -> Drawing:
    """Draw right answers against counted FLOPs."""
    return _accuracy_against(
        findings,
        styles,
        "flops",
        lambda arm: arm.flops / 1e9,
        "counted GFLOPs of the prefill",
        "Counted, not measured: the language model's prefill and, where a recipe prunes it, the vision tower.",
    )


def accuracy_time(findings: Findings, styles: dict[str, LineStyle]) -> Drawing:
    """Draw right answers against measured time."""
    batch = sorted({size for arm in findings.comparison.arms for cell in arm.cells for size in cell.batches})
    said = ", ".join(map(str, batch))
    return _accuracy_against(
        findings,
        styles,
        "time",
        lambda arm: arm.ms,
        "measured milliseconds per sample",
        f"Measured on the machine of the run: vision tower, selection and prefill, in batches of {said}. Fewer FLOPs "
        "need not be less time.",
    )


def by_kind(findings: Findings, styles: dict[str, LineStyle]) -> Drawing | None:
    """Draw right answers against visual tokens, with a panel for every type of question."""
    comparison = findings.comparison
    kinds = [kind for kind in dict.fromkeys(comparison.kinds) if kind]
    if len(kinds) < 2:
        return None
    across = min(3, len(kinds))
    down = math.ceil(len(kinds) / across)
    figure = new_figure(8.4, 2.35 * down + 0.7)
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for axes, kind in itertools.zip_longest(grid.flat, kinds):
        if kind is None:
            axes.set_visible(False)
            continue
        _curves(axes, comparison, styles, lambda arm: arm.tokens, kind, bands=False)
        out = kind in comparison.left_out
        count = int(comparison.of_kind(kind).sum())
        axes.set_title(f"{kind}{' †' if out else ''} (n = {count})", loc="left")
        _token_axis(axes, comparison, label=False)
        # The lowest panel of each column has tick labels, also if it is not in the last row.
        axes.tick_params(labelbottom=kinds.index(kind) + across >= len(kinds))
    figure.supylabel("right answers, %", fontsize=8.5)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6)
    left = ", ".join(comparison.left_out)
    return Drawing(
        f"kinds-{slug(comparison.title)}",
        f"{comparison.title}: by type of question",
        "Against mean visual tokens per decoder layer, without bands to stay readable: the tables have the intervals. "
        "Dotted: oracle and anti-oracle; dashed and dash-dotted: all tokens, and none."
        + (f" †: below 80 % for the unpruned model, left out of the headline ({left})." if left else ""),
        figure,
        wide=True,
    )


def recall(findings: Findings, styles: dict[str, LineStyle]) -> Drawing | None:
    """Draw the share of needed tokens that are kept against visual tokens."""
    comparison = findings.comparison
    if not any(np.isfinite(arm.recall).any() for arm in comparison.arms if arm.role == "method"):
        return None
    figure = new_figure(height=4.7)
    axes = figure.subplots()
    for arms, one in _arms_by_name(comparison, styles):
        points = [(arm.tokens, *_recall_interval(comparison, arm)) for arm in arms if np.isfinite(arm.recall).any()]
        if points:
            _curve(axes, arms[0].method, points, one)
    for name, arms in _oracles(comparison).items():
        bound = [arm for arm in arms if np.isfinite(arm.recall).any()]
        xs, ys = [arm.tokens for arm in bound], [100 * float(np.nanmean(arm.recall)) for arm in bound]
        axes.plot(xs, ys, color=INK, linestyle=":", linewidth=1)
        if bound and name == bound[0].role:
            axes.annotate(name.replace("_", "-"), (xs[0], ys[0]), **_label_position(above=False))
    _token_axis(axes, comparison)
    axes.set_ylabel("needed tokens that stayed, %")
    axes.set_ylim(-2, 104)
    legend(axes)
    return Drawing(
        f"recall-{slug(comparison.title)}",
        f"{comparison.title}: recall of the needed tokens",
        "The tokens of the asked object are known for every question; this is the mean share of them that was still "
        "there after the last cut.",
        figure,
    )


def _accuracy_against(
    findings: Findings, styles: dict[str, LineStyle], name: str, value: Callable[[Arm], float], label: str, caption: str
) -> Drawing:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    comparison = findings.comparison
    figure = new_figure(height=4.7)
    axes = figure.subplots()
    _curves(axes, comparison, styles, value)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    _round_ticks(axes)
    axes.set_xlabel(label)
    axes.set_ylabel("right answers, %")
    legend(axes)
    return Drawing(
        f"{name}-{slug(comparison.title)}",
        f"{comparison.title}: right answers against {label}",
        f"{caption} The thick pale line is the Pareto front.",
        figure,
    )


def _curves(
    axes: Axes,
    comparison: Comparison,
    styles: dict[str, LineStyle],
    value: Callable[[Arm], float],
    kind: str | None = None,
    bands: bool = True,
) -> None:
    mask = comparison.headline if kind is None else comparison.of_kind(kind)
    everything: list[tuple[float, float]] = []
    for arms, one in _arms_by_name(comparison, styles):
        points = []
        for arm in arms:
            found = comparison.interval(arm, kind)
            points.append((value(arm), 100 * found.estimate, 100 * found.low, 100 * found.high))
        _curve(axes, arms[0].method, points, one, bands)
        everything += [(x, y) for x, y, *_ in points]
    if bands and everything:
        unpruned = comparison.unpruned
        if unpruned is not None:
            everything.append((value(unpruned), 100 * float(unpruned.correct[mask].mean())))
        _front(axes, everything)
    _bounds(axes, comparison, value, mask, named=bands)


def _curve(axes: Axes, name: str, points: Sequence[tuple[float, ...]], style: LineStyle, band: bool = True) -> None:
    xs, ys, lows, highs = (list(column) for column in zip(*points, strict=True))
    control = style.colour == INK
    if band and xs != sorted(xs):
        # Measured time need not grow with the budget, and a band that turns back cannot be read.
        errors = [[y - low for y, low in zip(ys, lows, strict=True)], [h - y for y, h in zip(ys, highs, strict=True)]]
        axes.errorbar(xs, ys, errors, fmt="none", ecolor=style.colour, alpha=0.35, elinewidth=1)
    elif band:
        axes.fill_between(xs, lows, highs, color=style.colour, alpha=0.07 if control else 0.13, linewidth=0)
    axes.plot(
        xs,
        ys,
        color=style.colour,
        alpha=0.75 if control else 1,
        marker=style.marker,
        linestyle=style.dash,
        linewidth=1.1 if control else 1.5,
        label=name,
        zorder=2 if control else 3,
    )


def _front(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    costs, gains = (list(column) for column in zip(*points, strict=True))
    best = statistics.front(costs, gains)
    xs, ys = [costs[place] for place in best], [gains[place] for place in best]
    axes.step(xs, ys, where="post", color=INK, alpha=0.16, linewidth=6, solid_capstyle="butt", zorder=1)


def _bounds(axes: Axes, comparison: Comparison, value: Callable[[Arm], float], mask: Mask, named: bool) -> None:
    for name, arms in _oracles(comparison).items():
        ys = [100 * float(arm.correct[mask].mean()) for arm in arms]
        axes.plot([value(arm) for arm in arms], ys, color=INK, linestyle=":", linewidth=1, zorder=1)
        # Bounds that cut at other sites look the same and are not labelled.
        if named and name == arms[0].role:
            axes.annotate(name.replace("_", "-"), (value(arms[0]), ys[0]), **_label_position(above=False))
    for role, dash, name in (("unpruned", "--", "all tokens"), ("text_only", "-.", "no tokens")):
        arm = next((arm for arm in comparison.arms if arm.role == role), None)
        if arm is not None:
            y = 100 * float(arm.correct[mask].mean())
            axes.axhline(y, color=INK, alpha=SOFT_ALPHA, linestyle=dash, linewidth=0.8, zorder=1)
            if named:
                axes.annotate(name, (1, y), xycoords=("axes fraction", "data"), **_label_position(above=True))


def _oracles(comparison: Comparison) -> dict[str, list[Arm]]:
    """Return the oracles and anti-oracles by name, the smallest budget first."""
    found: dict[str, list[Arm]] = {}
    for arm in _sorted(comparison.arms, lambda arm: arm.tokens):
        if arm.role in ("oracle", "anti_oracle"):
            found.setdefault(arm.method, []).append(arm)
    return found


def _label_position(above: bool) -> dict[str, Any]:
    if above:
        place, across, down = (-2, 2), "right", "bottom"
    else:
        place, across, down = (0, -4), "left", "top"
    return {
        "xytext": place,
        "textcoords": "offset points",
        "fontsize": 7,
        "alpha": 0.8,
        "ha": across,
        "va": down,
    }


def _arms_by_name(comparison: Comparison, styles: dict[str, LineStyle]) -> list[tuple[list[Arm], LineStyle]]:
    """Return the arms of each method and control with their style, the smallest budget first, in the legend's order."""
    found: dict[str, list[Arm]] = {name: [] for name in styles}
    for arm in comparison.arms:
        if arm.keep is not None and (arm.role == "method" or arm.role in CONTROL_ROLES):
            found[arm.method].append(arm)
    return [(_sorted(arms, lambda arm: arm.tokens), styles[name]) for name, arms in found.items() if arms]


def _sorted(arms: Sequence[Arm], value: Callable[[Arm], float]) -> list[Arm]:
    return sorted(arms, key=value)


def _token_axis(axes: Axes, comparison: Comparison, label: bool = True) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    ticks = [] if comparison.unpruned is None else [comparison.unpruned.tokens]
    # Blocks with most arms come first; a tick that is too near to another is left out.
    for block in sorted(comparison.blocks, key=lambda block: -len(block.arms)):
        if all(abs(math.log(block.tokens / tick)) > NEAR for tick in ticks):
            ticks.append(block.tokens)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.3g}"))
    if label:
        axes.set_xlabel("mean visual tokens per decoder layer (log)")


def _round_ticks(axes: Axes) -> None:
    from matplotlib.ticker import FixedLocator

    low, high = axes.get_xlim()
    candidates = [base * 10.0**power for power in range(-6, 13) for base in (1, 2, 3, 5)]
    inside = [tick for tick in candidates if low <= tick <= high]
    if len(inside) < 3:
        inside = [float(f"{tick:.2g}") for tick in np.geomspace(low, high, 6)[1:-1]]
    axes.xaxis.set_major_locator(FixedLocator(inside))


def legend(axes: Axes) -> None:
    """Put the legend of a plot below its figure."""
    figure = axes.get_figure()
    handles, labels = axes.get_legend_handles_labels()
    if figure is not None and handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=4)


def _recall_interval(comparison: Comparison, arm: Arm) -> tuple[float, float, float]:
    known = np.isfinite(arm.recall)
    [found] = significance.mean_intervals(arm.recall[known][None], comparison.clusters[known])
    return 100 * found.estimate, 100 * found.low, 100 * found.high
