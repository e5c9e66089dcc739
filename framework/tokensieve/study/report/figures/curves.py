"""Curves: right answers and recall against tokens, FLOPs and time."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tokensieve.study import statistics
from tokensieve.study.analysis import significance
from tokensieve.study.analysis.comparison import CONTROL_ROLES, ORACLE_ROLES, Arm, Comparison
from tokensieve.study.analysis.findings import Findings
from tokensieve.study.analysis.measured import Mask
from tokensieve.study.report.figures.style import INK, SOFT_ALPHA, Drawing, LineStyle, new_figure
from tokensieve.study.report.tables.values import slug

if TYPE_CHECKING:
    from matplotlib.axes import Axes


NEAR = 0.09
"""The smallest distance of two ticks, as a part of the axis of a whole figure."""
BANDS = 3
"""The most methods that have bands in one plot: more bands cover each other."""


# ------------------------------------------------------------------------------------------------------------ curves


def accuracy_tokens(findings: Findings, styles: dict[str, LineStyle]) -> Drawing:
    """Draw right answers against mean visual tokens per decoder layer."""
    comparison = findings.comparison
    figure = new_figure(height=4.3)
    axes = figure.subplots()
    banded = leading(comparison)
    _curves(axes, comparison, styles, lambda arm: arm.tokens, banded=banded)
    token_axis(axes, comparison)
    axes.set_ylabel(f"{comparison.counted}, %")
    legend(axes)
    return Drawing(
        f"tokens-{slug(comparison.title)}",
        f"{comparison.title}: {comparison.counted} against visual tokens",
        "Mean visual tokens per decoder layer, as the ledger counted them. "
        f"{band_caption(banded)} {FRONT_CAPTION}{bounds_caption(comparison)}",
        figure,
        switches=curve_names(comparison, styles),
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


def recall(findings: Findings, styles: dict[str, LineStyle]) -> Drawing | None:
    """Draw the share of needed tokens that are kept against visual tokens."""
    comparison = findings.comparison
    if not any(np.isfinite(arm.recall).any() for arm in comparison.arms if arm.role == "method"):
        return None
    figure = new_figure(height=4.2)
    axes = figure.subplots()
    banded = leading(comparison)
    for number, (arms, one) in enumerate(arms_by_name(comparison, styles)):
        points = [(arm.tokens, *_recall_interval(comparison, arm)) for arm in arms if np.isfinite(arm.recall).any()]
        if points:
            curve(axes, arms[0].method, points, one, f"curve-{number}", arms[0].method in banded)
    for name, arms in _oracles(comparison).items():
        bound = [arm for arm in arms if np.isfinite(arm.recall).any()]
        xs, ys = [arm.tokens for arm in bound], [100 * float(np.nanmean(arm.recall)) for arm in bound]
        axes.plot(xs, ys, color=INK, linestyle=":", linewidth=1)
        if bound and name == bound[0].role:
            axes.annotate(name.replace("_", "-"), (xs[0], ys[0]), **_bound_label(bound[0].role, ys[0], 100.0))
    token_axis(axes, comparison)
    axes.set_ylabel("needed tokens that stayed, %")
    # Below no tokens at all there is room for the name of the lower bound.
    axes.set_ylim(-9, 104)
    legend(axes)
    return Drawing(
        f"recall-{slug(comparison.title)}",
        f"{comparison.title}: recall of the needed tokens",
        "The tokens of the asked object are known for every such question; this is the mean share of them that was "
        "still there after the last cut. " + band_caption(banded),
        figure,
        switches=curve_names(comparison, styles),
    )


def _accuracy_against(
    findings: Findings, styles: dict[str, LineStyle], name: str, value: Callable[[Arm], float], label: str, caption: str
) -> Drawing:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    comparison = findings.comparison
    figure = new_figure(height=4.2)
    axes = figure.subplots()
    banded = leading(comparison)
    _curves(axes, comparison, styles, value, banded=banded)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    _round_ticks(axes)
    axes.set_xlabel(label)
    axes.set_ylabel(f"{comparison.counted}, %")
    legend(axes)
    return Drawing(
        f"{name}-{slug(comparison.title)}",
        f"{comparison.title}: {comparison.counted} against {label}",
        f"{caption} {band_caption(banded)} {FRONT_CAPTION}{bounds_caption(comparison)}",
        figure,
        switches=curve_names(comparison, styles),
    )


FRONT_CAPTION = "The thick pale line is the Pareto front: nothing has more right with as little."


def leading(comparison: Comparison) -> tuple[str, ...]:
    """Return the methods whose curves have bands: all if they are few, else the three in front most often."""
    if len(comparison.methods) <= BANDS:
        return comparison.methods
    counts: dict[str, int] = {}
    for block in comparison.blocks:
        first = next((arm.method for arm in block.arms if arm.role == "method"), None)
        # A method alone in its blocks is in front of nothing.
        if first is not None and len(block.arms) > 1:
            counts[first] = counts.get(first, 0) + 1
    return tuple(sorted(counts, key=lambda name: -counts[name])[:BANDS])


def band_caption(banded: Collection[str]) -> str:
    """Return the sentence about bands."""
    if not banded:
        return "The tables have the intervals."
    return f"Bands ({', '.join(banded)}) are 95 % intervals over pictures; the tables have all intervals."


def bounds_caption(comparison: Comparison) -> str:
    """Return the sentence about the lines of bounds that are drawn, with a space before it."""
    roles = {arm.role for arm in comparison.arms}
    dotted = [role.replace("_", "-") for role in ORACLE_ROLES if role in roles]
    said = [f"{' and '.join(dotted)}, dotted"] if dotted else []
    said += ["all tokens, dashed"] if "unpruned" in roles else []
    said += ["no tokens, dash-dotted"] if "text_only" in roles else []
    return f" Bounds: {'; '.join(said)}." if said else ""


def curve_names(comparison: Comparison, styles: dict[str, LineStyle]) -> tuple[str, ...]:
    """Return the names of the curves, in their order."""
    return tuple(arms[0].method for arms, _ in arms_by_name(comparison, styles))


def _curves(
    axes: Axes,
    comparison: Comparison,
    styles: dict[str, LineStyle],
    value: Callable[[Arm], float],
    *,
    banded: Collection[str],
) -> None:
    everything: list[tuple[float, float]] = []
    for number, (arms, one) in enumerate(arms_by_name(comparison, styles)):
        points = interval_points(comparison, arms, value)
        curve(axes, arms[0].method, points, one, f"curve-{number}", arms[0].method in banded)
        everything += [(x, y) for x, y, *_ in points]
    unpruned = comparison.unpruned
    if unpruned is not None:
        everything.append((value(unpruned), 100 * comparison.score(unpruned)))
    if everything:
        _front(axes, everything)
    bounds(axes, comparison, value, comparison.headline, named=True)


def interval_points(
    comparison: Comparison, arms: Sequence[Arm], value: Callable[[Arm], float], kind: str | None = None
) -> list[tuple[float, float, float, float]]:
    """Return place, right answers in per cent and both ends of the interval of each arm."""
    found = [(value(arm), comparison.interval(arm, kind)) for arm in arms]
    return [(place, 100 * one.estimate, 100 * one.low, 100 * one.high) for place, one in found]


def curve(
    axes: Axes, name: str, points: Sequence[tuple[float, ...]], style: LineStyle, group: str = "", band: bool = False
) -> None:
    """Draw a curve, with its band if asked; in SVG, both are in groups whose ids begin with `group`."""
    xs, ys, lows, highs = (list(column) for column in zip(*points, strict=True))
    control = style.colour == INK
    if band and xs != sorted(xs):
        # Measured time need not grow with the budget, and a band that turns back cannot be read.
        errors = [[y - low for y, low in zip(ys, lows, strict=True)], [h - y for y, h in zip(ys, highs, strict=True)]]
        bars = axes.errorbar(xs, ys, errors, fmt="none", ecolor=style.colour, alpha=0.35, elinewidth=1)
        for number, part in enumerate(bars[2]):
            part.set_gid(f"{group}-bars-{number}" if group else None)
    elif band:
        filled = axes.fill_between(xs, lows, highs, color=style.colour, alpha=0.07 if control else 0.15, linewidth=0)
        filled.set_gid(f"{group}-band" if group else None)
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
        gid=f"{group}-line" if group else None,
    )


def _front(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    costs, gains = (list(column) for column in zip(*points, strict=True))
    best = statistics.front(costs, gains)
    xs, ys = [costs[place] for place in best], [gains[place] for place in best]
    axes.step(xs, ys, where="post", color=INK, alpha=0.16, linewidth=6, solid_capstyle="butt", zorder=1)


def bounds(axes: Axes, comparison: Comparison, value: Callable[[Arm], float], mask: Mask, named: bool) -> None:
    """Draw oracles, the unpruned model and the model without the picture over a mask of samples."""
    plain = next((arm for arm in comparison.arms if arm.role == "unpruned"), None)
    most = 100.0 if plain is None else 100 * float(plain.correct[mask].mean())
    for name, arms in _oracles(comparison).items():
        ys = [100 * float(arm.correct[mask].mean()) for arm in arms]
        axes.plot([value(arm) for arm in arms], ys, color=INK, linestyle=":", linewidth=1, zorder=1)
        # Bounds that cut at other sites look the same and are not labelled.
        if named and name == arms[0].role:
            axes.annotate(name.replace("_", "-"), (value(arms[0]), ys[0]), **_bound_label(arms[0].role, ys[0], most))
            if name == "anti_oracle":
                # Room for its name below it.
                axes.update_datalim([(value(arms[0]), ys[0] - _LABEL_HEIGHT)])
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
        if arm.role in ORACLE_ROLES:
            found.setdefault(arm.method, []).append(arm)
    return found


_LABEL_HEIGHT = 7.0
"""Of the name of a bound, in points of an axis of right answers."""


def _bound_label(role: str, y: float, most: float) -> dict[str, Any]:
    """Return where an oracle's name stands: outside of what methods reach, and on no line of all tokens."""
    above = role == "oracle" and not y <= most < y + _LABEL_HEIGHT
    return _label_position(above, left=True)


def _label_position(above: bool, left: bool = False) -> dict[str, Any]:
    """Return where a label stands at a point: above or below, and from there to the right, or to the left of it."""
    # Beside the marker of a curve that begins at the same point.
    place = (4 if left else -2, 2 if above else -4)
    across, down = "left" if left else "right", "bottom" if above else "top"
    return {
        "xytext": place,
        "textcoords": "offset points",
        "fontsize": 7,
        "alpha": 0.8,
        "ha": across,
        "va": down,
    }


def arms_by_name(comparison: Comparison, styles: dict[str, LineStyle]) -> list[tuple[list[Arm], LineStyle]]:
    """Return the arms of each method and control with their style, the smallest budget first, in the legend's order."""
    found: dict[str, list[Arm]] = {name: [] for name in styles}
    for arm in comparison.arms:
        if arm.keep is not None and (arm.role == "method" or arm.role in CONTROL_ROLES):
            found[arm.method].append(arm)
    return [(_sorted(arms, lambda arm: arm.tokens), styles[name]) for name, arms in found.items() if arms]


def _sorted(arms: Sequence[Arm], value: Callable[[Arm], float]) -> list[Arm]:
    return sorted(arms, key=value)


def token_axis(axes: Axes, comparison: Comparison, label: bool = True, near: float = NEAR) -> None:
    """Set the axis of visual tokens, with ticks at budgets that are at least `near` of the axis apart."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    # Blocks with most arms come first; a tick that is too near to another is left out.
    blocks = sorted(comparison.blocks, key=lambda block: -len(block.arms))
    whole = [] if comparison.unpruned is None else [comparison.unpruned.tokens]
    ticks = _apart(axes, [*whole, *(block.tokens for block in blocks)], near)
    axes.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.3g}"))
    if label:
        axes.set_xlabel("mean visual tokens per decoder layer (log)")


def _apart(axes: Axes, candidates: Sequence[float], near: float) -> list[float]:
    """Return candidates that are at least a part of a logarithmic axis apart, earlier ones first."""
    low, high = axes.get_xlim()
    span = math.log(high / low)
    ticks: list[float] = []
    for one in candidates:
        if one > 0 and all(abs(math.log(one / tick)) > near * span for tick in ticks):
            ticks.append(one)
    return ticks


def _round_ticks(axes: Axes) -> None:
    from matplotlib.ticker import FixedLocator

    low, high = axes.get_xlim()
    # Rounder numbers come first.
    candidates = [base * 10.0**power for base in (1, 3, 2, 5) for power in range(-6, 13)]
    inside = [tick for tick in candidates if low <= tick <= high]
    if len(inside) < 3:
        inside = [float(f"{tick:.2g}") for tick in np.geomspace(low, high, 6)[1:-1]]
    axes.xaxis.set_major_locator(FixedLocator(sorted(_apart(axes, inside, NEAR))))


_LEGEND_ROWS, _ROW_INCHES = 5, 0.17
"""The rows of a legend for which a figure has room, and the height of one more."""


def legend(axes: Axes) -> None:
    """Put the legend of a plot below its figure, in as many columns as fit, three at most."""
    figure = axes.get_figure(root=True)
    handles, labels = axes.get_legend_handles_labels()
    if figure is None or not handles:
        return
    for columns in (3, 2, 1):
        made = figure.legend(handles, labels, loc="outside lower center", ncols=columns)
        if columns == 1 or made.get_window_extent().width <= figure.bbox.width:
            # A long legend makes the figure taller, not the plot lower.
            more = max(0, math.ceil(len(labels) / columns) - _LEGEND_ROWS)
            figure.set_figheight(figure.get_figheight() + more * _ROW_INCHES)
            return
        made.remove()


def _recall_interval(comparison: Comparison, arm: Arm) -> tuple[float, float, float]:
    known = np.isfinite(arm.recall)
    [found] = significance.mean_intervals(arm.recall[known][None], comparison.clusters[known])
    return 100 * found.estimate, 100 * found.low, 100 * found.high
