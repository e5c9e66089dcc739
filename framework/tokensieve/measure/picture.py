"""A figure of measured latency: the time to the first token of every variant, beside unpruned, floor and counted FLOPs.

Drawn by matplotlib without a display. The colours can be told apart by all kinds of colour vision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokensieve.measure.latency import Latency
from tokensieve.measure.rows import Row, Setting

COLOURS = ("#2f7ed8", "#d95f02", "#0a8f70", "#c2478f", "#7b6fd0", "#8f7a00", "#b4504a", "#2490a8")
PARTS = {"vision": "#9db7d5", "selection": "#d95f02", "prefill": "#0a8f70"}
MOST_PANELS = 6


def write_picture(latency: Latency, file: Path) -> None:
    """Write a figure as the file's ending says, `.svg` or `.png`.

    One panel for each batch size, number of text tokens, dtype and attention implementation, six at most: bars of one
    prompt length, or lines over several. The bytes depend on the numbers only.
    """
    import matplotlib
    from matplotlib.figure import Figure

    panels = list(_panels(latency.rows).items())[:MOST_PANELS]
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "tokensieve", "font.size": 8.5, "text.parse_math": False}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(6.4, 3.2 * len(panels) + 0.5), layout="constrained")
        for axes, (setting, rows) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
            several = len({row.setting.visual for row in rows}) > 1
            (_lines if several else _bars)(axes, rows)
            axes.set_title(
                f"batch {setting.batch}, {setting.text} text tokens"
                + ("" if several else f", {rows[0].setting.visual} visual tokens")
                + f", {setting.dtype}, {setting.attention}",
                loc="left",
                fontsize=9,
            )
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
        figure.suptitle(f"{latency.model}\n{latency.machine}", fontsize=7, x=0.01, ha="left", wrap=True)
        kind = file.suffix.removeprefix(".")
        metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(file, format=kind, dpi=160, facecolor="white", metadata=metadata)


def _panels(rows: Sequence[Row]) -> dict[Setting, list[Row]]:
    """Return the rows of each panel: of settings that differ in visual tokens alone."""
    found: dict[Setting, list[Row]] = {}
    for row in rows:
        found.setdefault(replace(row.setting, visual=0), []).append(row)
    return found


def _label(row: Row) -> str:
    return f"floor: {row.kept} visual tokens" if row.role == "floor" else row.name


def _bars(axes: Any, rows: Sequence[Row]) -> None:
    """Draw the parts of each variant's time, with the intervals of the whole."""
    names = [_label(row) for row in rows]
    left = [0.0] * len(rows)
    for part, colour in PARTS.items():
        widths = [max(0.0, getattr(row, part).median) for row in rows]
        axes.barh(names, widths, left=left, color=colour, label=part, height=0.6)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for place, row in enumerate(rows):
        axes.plot([row.first.low, row.first.high], [place, place], color="#222222", linewidth=1.2)
        if row.expected is not None:
            said = "counted FLOPs" if row is next(one for one in rows if one.expected is not None) else None
            axes.plot([row.expected] * 2, [place - 0.4, place + 0.4], color="#7b2fbf", linestyle=":", label=said)
    axes.axvline(rows[0].first.median, color="#222222", linewidth=0.9, label="unpruned")
    for number, row in enumerate(row for row in rows if row.role == "floor"):
        axes.axvline(
            row.first.median, color="#222222", linewidth=0.9, linestyle="--", label=None if number else "floor"
        )
    axes.invert_yaxis()
    axes.set_xlabel("ms to the first token (median, and its interval)")
    axes.legend(frameon=False, fontsize=7, ncols=6, loc="upper center", bbox_to_anchor=(0.4, -0.2))


def _lines(axes: Any, rows: Sequence[Row]) -> None:
    """Draw the time over the number of visual tokens."""
    names = list(dict.fromkeys(row.name for row in rows if row.role == "recipe"))
    colours = {"unpruned": "#222222", "floor": "#222222", **dict(zip(names, COLOURS * len(names), strict=False))}
    for name, colour in colours.items():
        own = [row for row in rows if row.name == name]
        if name == "floor":
            # Recipes may keep different numbers; the lowest is what none is below.
            own = [min(group, key=lambda row: row.kept) for group in _by_length(own)]
        x = [row.setting.visual for row in own]
        line = "--" if name == "floor" else "-"
        axes.plot(x, [row.first.median for row in own], line, marker="o", markersize=3.5, color=colour, label=name)
        axes.fill_between(x, [r.first.low for r in own], [r.first.high for r in own], color=colour, alpha=0.15)
        if any(row.expected is not None for row in own):
            axes.plot(x, [row.expected for row in own], ":", color=colour, label=f"{name}, counted FLOPs")
    axes.set_xlabel("visual tokens of a prompt")
    axes.set_ylabel("ms to the first token")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=7)


def _by_length(rows: Sequence[Row]) -> list[list[Row]]:
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(row.setting.visual, []).append(row)
    return list(found.values())
