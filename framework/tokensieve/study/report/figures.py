"""The figures of a report. Each is made from findings alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tokensieve.study import inference, statistics
from tokensieve.study.analysis import CONTROLS, Arm, Block, Comparison, Floats, Mask
from tokensieve.study.findings import Findings
from tokensieve.study.report.style import INK, MARKERS, PALETTE, SOFT, Drawing, Look, canvas, looks, paper
from tokensieve.study.report.tables import block_name, slug, spelled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NEAR = 0.25
"""How far apart two ticks must be, in natural logarithms."""
BLACK, WHITE = "#111111", "#ffffff"


def draw(founds: Sequence[Findings]) -> list[Drawing]:
    """Draw every figure that the findings have numbers for."""
    roles: dict[str, str] = {}
    for found in founds:
        for arm in found.comparison.arms:
            if arm.role == "method" or arm.role in CONTROLS:
                roles.setdefault(arm.method, arm.role)
    # Methods before controls, whatever ran first.
    look = looks(dict(sorted(roles.items(), key=lambda pair: pair[1] != "method")))
    makers: tuple[Callable[[Findings, dict[str, Look]], Drawing | None], ...] = (
        accuracy_tokens,
        accuracy_flops,
        accuracy_time,
        by_kind,
        recall,
        overlap,
        shares,
        maps,
        critical_difference,
    )
    with paper():
        made = [make(found, look) for make in makers for found in founds]
        drawn = [drawing for drawing in made if drawing is not None]
        for drawing in drawn:
            # Everything finds its place once, not anew for every file.
            drawing.figure.draw_without_rendering()
            drawing.figure.set_layout_engine("none")
    return drawn


# ------------------------------------------------------------------------------------------------------------ curves


def accuracy_tokens(found: Findings, look: dict[str, Look]) -> Drawing:
    """Draw right answers against mean visual tokens per decoder layer."""
    comparison = found.comparison
    figure = canvas(height=4.9)
    axes = figure.subplots()
    _curves(axes, comparison, look, lambda arm: arm.tokens)
    _token_axis(axes, comparison)
    axes.set_ylabel("right answers, %")
    _legend(axes)
    return Drawing(
        f"tokens-{slug(comparison.title)}",
        f"{comparison.title}: right answers against visual tokens",
        "Mean visual tokens per decoder layer, as the ledger counted them. Bands are 95 % intervals over pictures. The "
        "thick pale line is the Pareto front: nothing has more right with as few tokens. Dotted: oracle and "
        "anti-oracle; dashed and dash-dotted: all tokens, and none.",
        figure,
    )


def accuracy_flops(found: Findings, look: dict[str, Look]) -> Drawing:
    """Draw right answers against counted FLOPs."""
    return _against(
        found,
        look,
        "flops",
        lambda arm: arm.flops / 1e9,
        "counted GFLOPs of the prefill",
        "Counted, not measured: the language model's prefill and, where a recipe prunes it, the vision tower.",
    )


def accuracy_time(found: Findings, look: dict[str, Look]) -> Drawing:
    """Draw right answers against measured time."""
    batch = sorted({size for arm in found.comparison.arms for cell in arm.cells for size in cell.batches})
    said = ", ".join(map(str, batch))
    return _against(
        found,
        look,
        "time",
        lambda arm: arm.ms,
        "measured milliseconds per sample",
        f"Measured on the machine of the run: vision tower, selection and prefill, in batches of {said}. Fewer FLOPs "
        "need not be less time.",
    )


def by_kind(found: Findings, look: dict[str, Look]) -> Drawing | None:
    """Draw right answers against tokens, for every type of question."""
    comparison = found.comparison
    kinds = [kind for kind in dict.fromkeys(comparison.kinds) if kind]
    if len(kinds) < 2:
        return None
    across = min(3, len(kinds))
    down = math.ceil(len(kinds) / across)
    figure = canvas(8.4, 2.35 * down + 0.7)
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for axes, kind in itertools.zip_longest(grid.flat, kinds):
        if kind is None:
            axes.set_visible(False)
            continue
        _curves(axes, comparison, look, lambda arm: arm.tokens, kind, bands=False)
        out = kind in comparison.left_out
        count = int(comparison.of_kind(kind).sum())
        axes.set_title(f"{kind}{' †' if out else ''} (n = {count})", loc="left")
        _token_axis(axes, comparison, label=False)
        # The lowest panel of a column has the numbers, whether or not it is in the last row.
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


def recall(found: Findings, look: dict[str, Look]) -> Drawing | None:
    """Draw the share of needed tokens that was kept, against tokens."""
    comparison = found.comparison
    if not any(np.isfinite(arm.recall).any() for arm in comparison.arms if arm.role == "method"):
        return None
    figure = canvas(height=4.7)
    axes = figure.subplots()
    for arms, one in _series(comparison, look):
        points = [(arm.tokens, *_recalled(comparison, arm)) for arm in arms if np.isfinite(arm.recall).any()]
        if points:
            _line(axes, arms[0].method, points, one)
    for name, arms in _bounding(comparison).items():
        bound = [arm for arm in arms if np.isfinite(arm.recall).any()]
        xs, ys = [arm.tokens for arm in bound], [100 * float(np.nanmean(arm.recall)) for arm in bound]
        axes.plot(xs, ys, color=INK, linestyle=":", linewidth=1)
        if bound and name == bound[0].role:
            axes.annotate(name.replace("_", "-"), (xs[0], ys[0]), **_beside(above=False))
    _token_axis(axes, comparison)
    axes.set_ylabel("needed tokens that stayed, %")
    axes.set_ylim(-2, 104)
    _legend(axes)
    return Drawing(
        f"recall-{slug(comparison.title)}",
        f"{comparison.title}: recall of the needed tokens",
        "The tokens of the asked object are known for every question; this is the mean share of them that was still "
        "there after the last cut.",
        figure,
    )


def _against(
    found: Findings, look: dict[str, Look], name: str, value: Callable[[Arm], float], label: str, caption: str
) -> Drawing:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    comparison = found.comparison
    figure = canvas(height=4.7)
    axes = figure.subplots()
    _curves(axes, comparison, look, value)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    _round_ticks(axes)
    axes.set_xlabel(label)
    axes.set_ylabel("right answers, %")
    _legend(axes)
    return Drawing(
        f"{name}-{slug(comparison.title)}",
        f"{comparison.title}: right answers against {label}",
        f"{caption} The thick pale line is the Pareto front.",
        figure,
    )


def _curves(
    axes: Axes,
    comparison: Comparison,
    look: dict[str, Look],
    value: Callable[[Arm], float],
    kind: str | None = None,
    bands: bool = True,
) -> None:
    mask = comparison.headline if kind is None else comparison.of_kind(kind)
    everything: list[tuple[float, float]] = []
    for arms, one in _series(comparison, look):
        points = []
        for arm in arms:
            found = comparison.interval(arm, kind)
            points.append((value(arm), 100 * found.estimate, 100 * found.low, 100 * found.high))
        _line(axes, arms[0].method, points, one, bands)
        everything += [(x, y) for x, y, *_ in points]
    if bands and everything:
        unpruned = comparison.unpruned
        if unpruned is not None:
            everything.append((value(unpruned), 100 * float(unpruned.correct[mask].mean())))
        _front(axes, everything)
    _bounds(axes, comparison, value, mask, named=bands)


def _line(axes: Axes, name: str, points: Sequence[tuple[float, ...]], look: Look, band: bool = True) -> None:
    xs, ys, lows, highs = (list(column) for column in zip(*points, strict=True))
    control = look.colour == INK
    if band and xs != sorted(xs):
        # Measured time need not grow with the budget: a band that turns back would say nothing.
        errors = [[y - low for y, low in zip(ys, lows, strict=True)], [h - y for y, h in zip(ys, highs, strict=True)]]
        axes.errorbar(xs, ys, errors, fmt="none", ecolor=look.colour, alpha=0.35, elinewidth=1)
    elif band:
        axes.fill_between(xs, lows, highs, color=look.colour, alpha=0.07 if control else 0.13, linewidth=0)
    axes.plot(
        xs,
        ys,
        color=look.colour,
        alpha=0.75 if control else 1,
        marker=look.marker,
        linestyle=look.dash,
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
    for name, arms in _bounding(comparison).items():
        ys = [100 * float(arm.correct[mask].mean()) for arm in arms]
        axes.plot([value(arm) for arm in arms], ys, color=INK, linestyle=":", linewidth=1, zorder=1)
        # One that cuts elsewhere is drawn alike, and has no name of its own.
        if named and name == arms[0].role:
            axes.annotate(name.replace("_", "-"), (value(arms[0]), ys[0]), **_beside(above=False))
    for role, dash, name in (("unpruned", "--", "all tokens"), ("text_only", "-.", "no tokens")):
        arm = next((arm for arm in comparison.arms if arm.role == role), None)
        if arm is not None:
            y = 100 * float(arm.correct[mask].mean())
            axes.axhline(y, color=INK, alpha=SOFT, linestyle=dash, linewidth=0.8, zorder=1)
            if named:
                axes.annotate(name, (1, y), xycoords=("axes fraction", "data"), **_beside(above=True))


def _bounding(comparison: Comparison) -> dict[str, list[Arm]]:
    """Return the oracles and anti-oracles by name, the smallest budget first."""
    found: dict[str, list[Arm]] = {}
    for arm in _sorted(comparison.arms, lambda arm: arm.tokens):
        if arm.role in ("oracle", "anti_oracle"):
            found.setdefault(arm.method, []).append(arm)
    return found


def _beside(above: bool) -> dict[str, Any]:
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


def _series(comparison: Comparison, look: dict[str, Look]) -> list[tuple[list[Arm], Look]]:
    """Return the arms of each method and control, the smallest budget first, in the order of the legend."""
    found: dict[str, list[Arm]] = {name: [] for name in look}
    for arm in comparison.arms:
        if arm.keep is not None and (arm.role == "method" or arm.role in CONTROLS):
            found[arm.method].append(arm)
    return [(_sorted(arms, lambda arm: arm.tokens), look[name]) for name, arms in found.items() if arms]


def _sorted(arms: Sequence[Arm], value: Callable[[Arm], float]) -> list[Arm]:
    return sorted(arms, key=value)


def _token_axis(axes: Axes, comparison: Comparison, label: bool = True) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    ticks = [] if comparison.unpruned is None else [comparison.unpruned.tokens]
    # Where most is; what lies so near that its number would not fit has none.
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


def _legend(axes: Axes) -> None:
    figure = axes.get_figure()
    handles, labels = axes.get_legend_handles_labels()
    if figure is not None and handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=4)


def _recalled(comparison: Comparison, arm: Arm) -> tuple[float, float, float]:
    known = np.isfinite(arm.recall)
    [found] = inference.means(arm.recall[known][None], comparison.clusters[known])
    return 100 * found.estimate, 100 * found.low, 100 * found.high


# ------------------------------------------------------------------------------------------------------ what was kept


def middle(comparison: Comparison) -> Block | None:
    """Return the block in the middle of those with most arms: where methods can be told apart best."""
    most = max((len(block.arms) for block in comparison.blocks), default=0)
    full = [block for block in comparison.blocks if len(block.arms) == most]
    return full[len(full) // 2] if full else None


def overlap(found: Findings, look: dict[str, Look]) -> Drawing | None:
    """Draw how much of what two methods keep is the same."""
    comparison = found.comparison
    block = middle(comparison)
    # Not the oracles: beyond what is needed they draw as `random` does, and overlap with it for no other reason.
    arms = [arm for arm in block.arms if _keeps(arm)] if block is not None else []
    order = list(look)
    arms = sorted((arm for arm in arms if arm.method in order), key=lambda arm: order.index(arm.method))
    if block is None or len(arms) < 2:
        return None
    # A seed stands for all: of a random draw, others overlap as much.
    last = [[frozenset(row[-1]) if row else frozenset() for row in arm.cells[0].kept] for arm in arms]
    values = np.array(statistics.overlaps(last))
    names = [arm.method for arm in arms]
    figure = canvas(5.4, 5.0)
    axes = figure.subplots()
    _heat(axes, values, "viridis", 0, 1)
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


def shares(found: Findings, look: dict[str, Look]) -> Drawing | None:
    """Draw how much of what a composition keeps each operand had among its own best."""
    comparison = found.comparison
    composed: dict[str, list[Arm]] = {}
    for arm in comparison.arms:
        if arm.role == "method" and any(stage for row in arm.cells[0].shares for stage in row if len(stage) > 1):
            composed.setdefault(arm.method, []).append(arm)
    if not composed:
        return None
    figure = canvas(5.4, 1.0 + 1.75 * len(composed))
    grid = figure.subplots(len(composed), 1, squeeze=False, sharex=True)
    for axes, (name, arms) in zip(grid.flat, composed.items(), strict=True):
        _operands(axes, name, arms, found)
    grid.flat[-1].set_xlabel("kept tokens that were among the operand's own best, %")
    return Drawing(
        f"shares-{slug(comparison.title)}",
        f"{comparison.title}: what operands gave to compositions",
        "Of the tokens a composition kept, the share that an operand would have kept alone at the same budget. 100 % "
        "for one operand means that the others decided nothing.",
        figure,
    )


def maps(found: Findings, look: dict[str, Look]) -> Drawing | None:
    """Draw how often each place of the grid was kept."""
    comparison = found.comparison
    block = middle(comparison)
    arms = list(block.arms) if block is not None else []
    # A method in a block of its own, as one that cuts inside the decoder, has a map too.
    keep = None if block is None else block.keep
    arms += [arm for arm in comparison.arms if arm.keep == keep and arm.role == "method" and arm not in arms]
    drawn = [(arm, where) for arm in arms if (where := frequency(arm)) is not None]
    drawn.sort(key=lambda pair: list(look).index(pair[0].method))
    if block is None or not drawn:
        return None
    across = min(5, len(drawn))
    down = math.ceil(len(drawn) / across)
    figure = canvas(8.4, 1.85 * down + 0.3)
    grid = figure.subplots(down, across, squeeze=False)
    # A fixed pattern is at one everywhere, beside which all else would be dark.
    top = min(1.0, 4 * max(float(where.mean()) for _, where in drawn))
    for axes, pair in itertools.zip_longest(grid.flat, drawn):
        if pair is None:
            axes.set_visible(False)
            continue
        _heat(axes, pair[1], "viridis", 0, top)
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


def frequency(arm: Arm) -> Floats | None:
    """Return how often each place was kept at the last cut, float64 `[rows, columns]`, or none without one grid."""
    grid = arm.cells[0].cell.grid
    if grid is None or not _keeps(arm):
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


def _keeps(arm: Arm) -> bool:
    return any(row and row[-1] for row in arm.cells[0].kept)


def _heat(axes: Axes, values: Floats, colours: str, low: float, high: float) -> Any:
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    return axes.imshow(values, cmap=colours, vmin=low, vmax=high, interpolation="nearest")


def _operands(axes: Axes, name: str, arms: Sequence[Arm], found: Findings) -> None:
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
    anatomy = found.anatomies.get(name)
    axes.set_title(name if anatomy is None else spelled(name, anatomy.formula), loc="left")
    axes.grid(visible=False, axis="y")


# ------------------------------------------------------------------------------------------------------------- ranks


def critical_difference(found: Findings, look: dict[str, Look]) -> Drawing | None:
    """Draw mean ranks over pictures, and bars over what cannot be told apart."""
    comparison = found.comparison
    block = middle(comparison)
    if block is None or len(block.arms) < 3:
        return None
    mask = comparison.headline
    ranks = inference.by_picture(np.array([arm.correct[mask] for arm in block.arms]), comparison.clusters[mask])
    if ranks is None:
        return None
    order = sorted(range(len(block.arms)), key=lambda place: ranks.ranks[place])
    half = math.ceil(len(order) / 2)
    figure = canvas(5.4, 1.2 + 0.24 * half)
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
        one = look.get(arm.method)
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
