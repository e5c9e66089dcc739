"""What a notebook shows of tokens: small tables and grids as HTML that loads nothing, for dark pages and light ones."""

from __future__ import annotations

import html
import math
from collections.abc import Collection, Mapping, Sequence

# Okabe and Ito's palette: distinct for every kind of colour vision. Operands take them in turn.
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#0072B2")

CELL = 8
PICTURE = 192
"""The longer side of a picture in pixels."""
MOST_ROWS = 4
"""How many groups or samples are shown."""


def grid(strengths: Sequence[float], label: str) -> str:
    """Return a grid of tokens, by id from the top left, as wide as it is high.

    Args:
        strengths: of each token, 0 for one that left to 1; what is between is shown paler.
        label: says what it is, for those who do not see it.
    """
    columns = max(1, math.ceil(math.sqrt(len(strengths))))
    rows = max(1, math.ceil(len(strengths) / columns))
    cells = []
    for number, strength in enumerate(strengths):
        y, x = divmod(number, columns)
        at = f'x="{x * CELL}" y="{y * CELL}" width="{CELL - 1}" height="{CELL - 1}"'
        # The colour of the page's own text shows on either background.
        look = (
            f'fill="{PALETTE[0]}" fill-opacity="{strength:.2f}"'
            if strength > 0
            else 'fill="currentColor" fill-opacity="0.12"'
        )
        cells.append(f"<rect {at} {look}><title>token {number}</title></rect>")
    size = f'width="{columns * CELL}" height="{rows * CELL}"'
    return f'<svg role="img" aria-label="{html.escape(label)}" {size}>{"".join(cells)}</svg>'


def placed(places: Sequence[tuple[int, int]], kept: Collection[int], picture: str | None, label: str) -> str:
    """Return the tokens of a picture at their places: what left is dimmed, what stays has a frame.

    Args:
        places: the row and column of each token, by id.
        kept: ids of the tokens that stay.
        picture: what lies below, as a `data:` address; without it, tokens are squares.
        label: says what it is, for those who do not see it.
    """
    rows, columns = (1 + max(place[axis] for place in places) for axis in (0, 1))
    cell = max(CELL, PICTURE // max(rows, columns))
    width, height = columns * cell, rows * cell
    below = "" if picture is None else f'<image href="{picture}" width="{width}" height="{height}"></image>'
    gap = 1 if picture is None else 0
    cells = []
    for token, (row, column) in enumerate(places):
        if picture is None:
            look = f'fill="{PALETTE[0]}"' if token in kept else 'fill="currentColor" fill-opacity="0.12"'
        else:
            frame = f'fill="none" stroke="{PALETTE[0]}" stroke-width="2"'
            look = frame if token in kept else 'fill="#000000" fill-opacity="0.72"'
        at = f'x="{column * cell}" y="{row * cell}" width="{cell - gap}" height="{cell - gap}"'
        cells.append((token in kept, f"<rect {at} {look}><title>token {token}</title></rect>"))
    if picture is not None:
        # Frames are drawn last, so that no neighbour covers half of one.
        cells.sort(key=lambda one: one[0])
    over = "".join(text for _, text in cells)
    size = f'width="{width}" height="{height}"'
    return f'<svg role="img" aria-label="{html.escape(label)}" {size}>{below}{over}</svg>'


def bars(shares: Mapping[str, float]) -> str:
    """Return a bar for each operand in its colour: the part of the kept tokens that it had among its own best."""
    return "".join(
        f'<div><span style="display:inline-block;height:0.7em;width:{100 * share:.0f}px;'
        f'background:{PALETTE[number % len(PALETTE)]}"></span> {html.escape(name)} {share:.0%}</div>'
        for number, (name, share) in enumerate(shares.items())
    )


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> str:
    """Return a table.

    Args:
        title: above it, as text.
        head: the names of the columns, as text.
        rows: cells, as HTML.
        note: below it, as text.
    """
    names = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    below = f"<div><small>{html.escape(note)}</small></div>" if note else ""
    return f"<div><b>{html.escape(title)}</b><table><tr>{names}</tr>{lines}</table>{below}</div>"
