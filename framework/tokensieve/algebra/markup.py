"""What a notebook shows of tokens: small tables and grids as HTML that loads nothing, for dark pages and light ones."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

# Okabe and Ito's palette: distinct for every kind of colour vision. Operands take them in turn.
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#0072B2")

CELL = 8
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
