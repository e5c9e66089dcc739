"""Draws the figures of the pages: `python docs/figures.py` writes docs/assets/*.svg.

A figure is readable as a file of its own, dark on white. On the site `docs/hooks.py` puts it into the page itself,
where docs/assets/extra.css lets it take the colours of the light or dark palette.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"

A = (0, 1, 2, 3, 4, 5, 6, 7)
B = (7, 4, 2, 0, 5, 1, 6, 3)
"""The orders of the examples on docs/ideas/algebra.md, best token first."""

SHARED, OWN, FILLED = "#56b4e9", "#e8e8e8", "#f0b340"
WIDTH, CELL, GAP, LEFT = 640, 48, 8, 90


def text(x: float, y: float, words: str, *, anchor: str = "start", size: int = 15, weight: str = "normal") -> str:
    """Give a line of text in the colour of its surroundings."""
    style = f'font-size="{size}" font-weight="{weight}" text-anchor="{anchor}"'
    return f'<text x="{x:g}" y="{y:g}" {style} fill="currentColor">{words}</text>'


def cell(place: int, y: float, token: int, fill: str | None) -> str:
    """Give a token at its place in an order: filled if it was read, an outline if it was not."""
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
    """Give an order as a row of cells."""
    row = [text(16, y + 24, name)]
    return "".join([*row, *(cell(place, y, token, fills.get(token)) for place, token in enumerate(tokens))])


def read(tokens: Sequence[int], depth: int, shared: Collection[int]) -> dict[int, str]:
    """Give the colours of an order that was read to a depth."""
    return {token: SHARED if token in shared else OWN for token in tokens[:depth]}


def depth_line(y: float, height: float, depth: int) -> str:
    """Give the line behind the last place that was read."""
    x = LEFT + depth * (CELL + GAP) - GAP / 2
    return (
        f'<line x1="{x:g}" y1="{y:g}" x2="{x:g}" y2="{y + height:g}" stroke="currentColor" stroke-width="2" '
        'stroke-dasharray="5 4"/>'
    )


def figure(height: int, label: str, *parts: str) -> str:
    """Give the file of a figure."""
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


FIGURES = {"deeper.svg": deeper, "collapse.svg": collapse}

if __name__ == "__main__":
    for name, drawn in FIGURES.items():
        (ASSETS / name).write_text(drawn(), encoding="utf-8")
