"""Draws the figures of the pages: `python docs/figures.py` writes docs/assets/*.svg.

A figure is readable as a file of its own, dark on white. On the site `docs/hooks.py` puts it into the page itself,
where docs/assets/extra.css lets it take the colours of the light or dark palette.
"""

from __future__ import annotations

import csv
import html
import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"

A = (0, 1, 2, 3, 4, 5, 6, 7)
B = (7, 4, 2, 0, 5, 1, 6, 3)
"""The orders of the examples on docs/ideas/algebra.md, best token first."""

SHARED, OWN, FILLED = "#56b4e9", "#e8e8e8", "#f0b340"
WIDTH, CELL, GAP, LEFT = 640, 48, 8, 90


def text(x: float, y: float, words: str, *, anchor: str = "start", size: int = 15, weight: str = "normal") -> str:
    """Return a line of text in the colour of its surroundings."""
    style = f'font-size="{size}" font-weight="{weight}" text-anchor="{anchor}"'
    return f'<text x="{x:g}" y="{y:g}" {style} fill="currentColor">{words}</text>'


def cell(place: int, y: float, token: int, fill: str | None) -> str:
    """Return a token at its place in an order: filled if it was read, an outline if it was not."""
    x = LEFT + place * (CELL + GAP)
    shape = f'<rect x="{x}" y="{y:g}" width="{CELL}" height="{CELL - 12}" rx="4"'
    number = f'<text x="{x + CELL / 2:g}" y="{y + 24:g}" font-size="16" text-anchor="middle"'
    if fill is None:
        return (
            f'{shape} fill="none" stroke="currentColor" stroke-opacity="0.35"/>'
            f'{number} fill="currentColor" fill-opacity="0.55">{token}</text>'
        )
    # Dark on a light fill, in both palettes.
    return f'{shape} fill="{fill}" stroke="#444444"/>{number} fill="#111111">{token}</text>'


def order(name: str, y: float, tokens: Sequence[int], fills: dict[int, str]) -> str:
    """Return an order as a row of cells."""
    row = [text(16, y + 24, name)]
    return "".join([*row, *(cell(place, y, token, fills.get(token)) for place, token in enumerate(tokens))])


def read(tokens: Sequence[int], depth: int, shared: Collection[int]) -> dict[int, str]:
    """Return the colours of an order that was read to a depth."""
    return {token: SHARED if token in shared else OWN for token in tokens[:depth]}


def depth_line(y: float, height: float, depth: int) -> str:
    """Return the line behind the last place that was read."""
    x = LEFT + depth * (CELL + GAP) - GAP / 2
    return (
        f'<line x1="{x:g}" y1="{y:g}" x2="{x:g}" y2="{y + height:g}" stroke="currentColor" stroke-width="2" '
        'stroke-dasharray="5 4"/>'
    )


def figure(height: int, label: str, *parts: str) -> str:
    """Return the file of a figure."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}" '
        'color="#222222" font-family="system-ui, sans-serif">\n'
        f'<rect class="paper" width="{WIDTH}" height="{height}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def deeper() -> str:
    """Show two orders that are read deeper until they share three tokens."""
    parts = []
    for y, depth in ((40, 3), (190, 5)):
        shared = set(A[:depth]) & set(B[:depth])
        listed = ", ".join(map(str, sorted(shared)))
        what = f"m = {depth}: both lists hold {listed}. " + (
            "One token of three." if len(shared) < 3 else "Three tokens: done."
        )
        parts += [text(16, y - 14, what, weight="bold")]
        parts += [
            order("a's order", y, A, read(A, depth, shared)),
            order("b's order", y + 46, B, read(B, depth, shared)),
        ]
        parts += [depth_line(y - 4, 90, depth)]
    return figure(292, "Two orders are read deeper until they share three tokens: 0, 2 and 4", *parts)


def collapse() -> str:
    """Show that filling an intersection in b's own order gives b's own set."""
    shared = set(A[:3]) & set(B[:3])
    rest = dict.fromkeys(set(B[:3]) - shared, FILLED)
    first = (text(16, 26, "Both choose three. They share one token: two are missing.", weight="bold"),)
    rows = (order("a's order", 40, A, read(A, 3, shared)), order("b's order", 86, B, read(B, 3, shared)))
    second = text(16, 176, "Filled in b's own order: the result is b's own three.", weight="bold")
    return figure(
        240,
        "Filling the intersection of two sets of three in b's order gives b's own three tokens",
        *first,
        *rows,
        depth_line(36, 90, 3),
        second,
        order("b's order", 190, B, dict.fromkeys(shared, SHARED) | rest),
    )


def sweep() -> str:
    """Show throughput and counted FLOPs of a merging ViT against r, as `benchmarks/tome.py --record` found them."""
    found = json.loads((ASSETS / "tome-sweep.json").read_text(encoding="utf-8"))
    left, bottom, top, height, right = 60, 46, 24, 300, WIDTH - 120
    most = max(1.5, *(speed for *_, speed in found))
    xs = [left + (right - left) * r / found[-1][0] for r, *_ in found]

    def y(value: float) -> float:
        return height - bottom - (height - bottom - top) * value / most

    def curve(values: Sequence[float], colour: str, name: str) -> list[str]:
        points = [(x, y(value)) for x, value in zip(xs, values, strict=True)]
        line = " ".join(f"{x:.1f},{down:.1f}" for x, down in points)
        dots = [f'<circle cx="{x:.1f}" cy="{down:.1f}" r="4" fill="{colour}"/>' for x, down in points]
        x, down = points[-1]
        label = f'<text x="{x + 12:.1f}" y="{down + 5:.1f}" font-size="15" fill="{colour}">{name}</text>'
        return [f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>', *dots, label]

    parts = []
    for tick in [0.5 * i for i in range(int(most / 0.5) + 1)]:
        ends = f'x1="{left}" y1="{y(tick):.1f}" x2="{right}" y2="{y(tick):.1f}"'
        parts.append(f'<line {ends} stroke="currentColor" stroke-opacity="0.2"/>')
        parts.append(text(left - 8, y(tick) + 5, f"{tick:g}", anchor="end", size=14))
    for x, (r, patches, *_) in zip(xs, found, strict=True):
        parts.append(text(x, height - 26, f"r = {r}", anchor="middle", size=14))
        parts.append(text(x, height - 8, f"{patches} left", anchor="middle", size=13))
    parts += curve([speed for *_, speed in found], "#2a8bd0", "throughput")
    parts += curve([share for _, _, share, _ in found], "#d9730d", "FLOPs")
    return figure(
        height, "Throughput and counted FLOPs of a ViT that merges r tokens a block, over the plain one's", *parts
    )


def coverage() -> str:
    """Show how often intervals hold the truth, as `benchmarks/coverage.py --record` found them."""
    found = json.loads((ASSETS / "coverage.json").read_text(encoding="utf-8"))
    left, right, least, top, line = 290, WIDTH - 64, 0.6, 34, 25

    def x(part: float) -> float:
        return left + (right - left) * (part - least) / (1 - least)

    parts, y = [], top
    for case, rows in found:
        y += line + 8
        parts.append(text(16, y, case, weight="bold"))
        for name, part in rows:
            y += line
            colour = "#2a8bd0" if name.endswith("as here") else "#d9730d"
            ends = f'x1="{x(0.95):.1f}" x2="{x(part):.1f}" y1="{y - 5}" y2="{y - 5}"'
            parts.append(text(16, y, name, size=14))
            parts.append(f'<line {ends} stroke="{colour}" stroke-width="3"/>')
            parts.append(f'<circle cx="{x(part):.1f}" cy="{y - 5}" r="6" fill="{colour}"/>')
            parts.append(text(WIDTH - 10, y, f"{part:.1%}", anchor="end", size=14))
    for tick in (0.6, 0.7, 0.8, 0.9, 1.0):
        ends = f'x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{top + 6}" y2="{y + 6}"'
        parts.insert(0, f'<line {ends} stroke="currentColor" stroke-opacity="0.2"/>')
        parts.append(text(x(tick), y + 24, f"{tick:.0%}", anchor="middle", size=14))
    ends = f'x1="{x(0.95):.1f}" x2="{x(0.95):.1f}" y1="{top - 4}" y2="{y + 6}"'
    parts.append(f'<line {ends} stroke="currentColor" stroke-width="2" stroke-dasharray="5 4"/>')
    parts.append(text(x(0.95), top - 12, "95 % promised", anchor="middle", size=14))
    return figure(y + 38, "How often an interval of 95 % holds the truth, of 2,000 simulated studies", *parts)


def scale_time() -> str:
    """Show the time of selecting against the tokens, as `benchmarks/scale.py --record` found it."""
    return log_log("Milliseconds of selecting 64 tokens, against the tokens there are", "seconds", 1000, "ms")


def scale_memory() -> str:
    """Show the memory of selecting against the tokens, in the same way."""
    return log_log("MiB of selecting 64 tokens, against the tokens there are", "bytes", 2**-20, "MiB")


def log_log(label: str, what: str, unit: float, name: str) -> str:
    """Return a figure of a column of scale.json against the tokens, with both axes logarithmic."""
    found = json.loads((ASSETS / "scale.json").read_text(encoding="utf-8"))
    curves = {method: [(row["n"], max(unit * row[what], 0.1)) for row in found[method]["length"]] for method in SCALED}
    ns = sorted({n for points in curves.values() for n, _ in points})
    most = max(value for points in curves.values() for _, value in points)
    left, right, top, bottom, height = 76, WIDTH - 116, 16, 46, 400
    decades = range(-1, math.ceil(math.log10(most)) + 1)

    def x(n: float) -> float:
        return left + (right - left) * math.log(n / ns[0]) / math.log(ns[-1] / ns[0])

    def y(value: float) -> float:
        part = (math.log10(value) - decades[0]) / (decades[-1] - decades[0])
        return height - bottom - (height - bottom - top) * part

    parts = []
    for decade in decades:
        down = y(10.0**decade)
        ends = f'x1="{left}" y1="{down:.1f}" x2="{right}" y2="{down:.1f}"'
        parts.append(f'<line {ends} stroke="currentColor" stroke-opacity="0.2"/>')
        parts.append(text(left - 8, down + 5, f"{10.0**decade:,g}", anchor="end", size=14))
    for n in ns:
        parts.append(text(x(n), height - 26, f"{n:,}", anchor="middle", size=13))
    parts.append(text((left + right) / 2, height - 8, f"tokens; {name}", anchor="middle", size=13))
    lowest = float("inf")
    # From the top down, so that a name goes below the one that is in its way.
    for number, method in sorted(enumerate(curves), key=lambda one: y(curves[one[1]][-1][1])):
        points, colour = curves[method], COLOURS[number % len(COLOURS)]
        line = " ".join(f"{x(n):.1f},{y(value):.1f}" for n, value in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x(n):.1f}" cy="{y(value):.1f}" r="3" fill="{colour}"/>' for n, value in points]
        end, down = x(points[-1][0]), y(points[-1][1])
        place = down if lowest == float("inf") else max(down, lowest + 17)
        lowest = place
        bend = f'<line x1="{end:.1f}" y1="{down:.1f}" x2="{right + 14}" y2="{place:.1f}" stroke="{colour}"'
        parts.append(f'{bend} stroke-opacity="0.5" stroke-dasharray="2 3"/>')
        named = html.escape(method)
        parts.append(f'<text x="{right + 18}" y="{place + 5:.1f}" font-size="14" fill="{colour}">{named}</text>')
    return figure(height, label, *parts)


def seeds() -> str:
    """Show the right answers of three training seeds at one budget, from docs/assets/findings/seeds."""
    panels = [("world-llava", "llava"), ("world-qwen", "qwen")]
    rows, left, top, step, wide = SEEDED, 96, 34, 26, 236
    height = top + step * len(rows) + 44
    lowest, highest = 40.0, 100.0
    parts = []
    for number, (title, family) in enumerate(panels):
        start = left + number * (wide + 40)

        def x(value: float, start: float = start) -> float:
            return start + wide * (value - lowest) / (highest - lowest)

        parts.append(text(start, 18, title, weight="bold"))
        for tick in range(int(lowest), int(highest) + 1, 20):
            ends = f'x1="{x(tick):.1f}" y1="{top - 6}" x2="{x(tick):.1f}" y2="{top + step * len(rows) - 6}"'
            parts.append(f'<line {ends} stroke="currentColor" stroke-opacity="0.2"/>')
            parts.append(text(x(tick), top + step * len(rows) + 12, f"{tick}", anchor="middle", size=13))
        for row, method in enumerate(rows):
            y = top + step * row + 8
            values = [_right(f"accuracy-{family}-seed-{seed}-on-world.csv", method, "keep 1/9:") for seed in range(3)]
            if not number:
                parts.append(text(left - 14, y + 5, html.escape(method), anchor="end", size=14))
            bar = f'x1="{x(min(values)):.1f}" y1="{y}" x2="{x(max(values)):.1f}" y2="{y}"'
            parts.append(f'<line {bar} stroke="currentColor" stroke-opacity="0.35" stroke-width="2"/>')
            for value, colour in zip(values, COLOURS, strict=False):
                parts.append(f'<circle cx="{x(value):.1f}" cy="{y}" r="5" fill="{colour}" fill-opacity="0.85"/>')
    for seed, colour in enumerate(COLOURS[:3]):
        at = left + 150 * seed
        parts.append(f'<circle cx="{at}" cy="{height - 10}" r="5" fill="{colour}"/>')
        parts.append(text(at + 12, height - 5, "seed 0, shipped" if not seed else f"seed {seed}", size=13))
    return figure(height, "Right answers in per cent at 1/9 of the tokens, for three training seeds", *parts)


def _right(file: str, method: str, budget: str) -> float:
    """Return a method's right answers in per cent, from a table of the study of seeds."""
    with (ASSETS / "findings" / "seeds" / file).open(encoding="utf-8", newline="") as opened:
        [line] = [one for one in csv.DictReader(opened) if one["row"] == method and one["group"].startswith(budget)]
    return float(line["All"])


SEEDED = ("qcsp", "divprune", "gsp | qcsp", "script", "tome", "gsp", "pool", "uniform", "random")
"""The rows of the figure of seeds."""
SCALED = (
    "norm",
    "evs",
    "visionzip",
    "qcsp",
    "gsp",
    "gsp & qcsp",
    "stream(script)",
    "divprune",
    "tome",
    "mmtok",
    "vispruner",
    "otprune",
)
"""The strategies whose curves are drawn."""
COLOURS = ("#2a8bd0", "#d9730d", "#0a8f70", "#c2478f", "#7b6fd0", "#8f7a00", "#b4504a", "#2490a8")
FIGURES = {
    "deeper.svg": deeper,
    "collapse.svg": collapse,
    "tome-sweep.svg": sweep,
    "coverage.svg": coverage,
    "scale-time.svg": scale_time,
    "scale-memory.svg": scale_memory,
    "seeds.svg": seeds,
}

if __name__ == "__main__":
    for name, drawn in FIGURES.items():
        (ASSETS / name).write_text(drawn(), encoding="utf-8")
