"""The style of figures: colours for all kinds of colour vision on light and dark pages, and how figures are saved."""

from __future__ import annotations

import html
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Each colour has a contrast of at least 3 to the white and to the dark page. Neighbours differ in lightness and hue for
# all kinds of colour vision, and also in markers and dashes.
PALETTE = ("#2f7ed8", "#d95f02", "#0a8f70", "#c2478f", "#7b6fd0", "#8f7a00", "#b4504a", "#2490a8")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES: Mapping[str, tuple[Any, ...]] = {
    "random": ((0, (1, 1.6)), (0, (1, 3)), (0, (3, 1.4, 1, 1.4, 1, 1.4, 1, 1.4))),
    "uniform": ((0, (5, 2)), (0, (2.5, 1.2)), (0, (5, 1.2, 5, 4))),
    "pool": ((0, (4, 1.5, 1, 1.5)), (0, (4, 1.5, 1, 1.5, 1, 1.5)), (0, (2, 1, 1, 1))),
    "downsampled": ((0, (2, 1)), (0, (2, 3)), (0, (3, 1, 1, 1))),
}
"""The dashes of controls by role; controls of one role that cut at other sites have the next one."""
DASH_CYCLE: tuple[Any, ...] = ("-", (0, (6, 1.2)), (0, (2.5, 1.2)))
"""The dashes of methods; the next one is used when all colours are taken."""
CONTROL_MARKERS: Mapping[str, tuple[str, ...]] = {
    "random": ("x", "4", "8"),
    "uniform": ("+", "3", "p"),
    "pool": ("1", "h", "H"),
    "downsampled": ("2", "d", "*"),
}
"""The markers of controls by role, in the same way."""

INK = "#010203"
"""The colour that becomes `currentColor` in a page; it is nearly black in files."""
SOFT_ALPHA = 0.62
"""The opacity of secondary lines."""
FAMILY = "system-ui, -apple-system, Segoe UI, Roboto, DejaVu Sans, sans-serif"


@dataclass(frozen=True)
class LineStyle:
    """The style of a method's line.

    Attributes:
        colour: the colour of line and marker.
        marker: matplotlib's name of the marker.
        dash: matplotlib's line style.
    """

    colour: str
    marker: str
    dash: Any


def line_styles(methods: Mapping[str, str]) -> dict[str, LineStyle]:
    """Return the line style of every method and control.

    Args:
        methods: the roles of methods and controls by name, in the study's order.
    """
    found = {}
    number = 0
    seen = Counter[str]()
    for name, role in methods.items():
        if role in DASHES:
            place = seen[role] % len(DASHES[role])
            seen[role] += 1
            found[name] = LineStyle(INK, CONTROL_MARKERS[role][place], DASHES[role][place])
        else:
            again = number // len(PALETTE)
            found[name] = LineStyle(
                PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)], DASH_CYCLE[again % len(DASH_CYCLE)]
            )
            number += 1
    return found


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure with its texts.

    Attributes:
        name: the name of its files.
        title: the text above the figure, which screen readers read, too.
        caption: the text below the figure: how to read it.
        figure: the figure of matplotlib.
        wide: whether it takes the whole width of the page.
        switches: the names of curves that a reader can switch on and off, in the order of their `curve-N` groups.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    wide: bool = False
    switches: tuple[str, ...] = ()

    def to_bytes(self, kind: str) -> bytes:
        """Return the figure as `svg`, `png` or `pdf`, on white; the bytes depend on the numbers only."""
        return self._svg if kind == "svg" else self._saved(kind)

    @cached_property
    def _svg(self) -> bytes:
        """The SVG, which is drawn once for its file and for the page."""
        return self._saved("svg")

    def _saved(self, kind: str) -> bytes:
        out = io.BytesIO()
        when: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}[kind]
        with plot_settings():
            self.figure.savefig(out, format=kind, dpi=200, facecolor="white", metadata=when)
        return out.getvalue()

    @cached_property
    def inline(self) -> str:
        """Return the SVG for a page."""
        return inlined(self._svg.decode(), self.name)

    @property
    def accessible(self) -> str:
        """Return `inline` as one image with a name for screen readers."""
        return self.inline.replace("<svg", f'<svg role="img" aria-label="{html.escape(self.title)}"', 1)


def inlined(file: str, name: str) -> str:
    """Return the SVG of a figure's file for a page: transparent, in the colour of the page's text, with unique ids.

    Args:
        file: what `Drawing.to_bytes` wrote.
        name: with which ids begin; another one for every figure of a page.
    """
    # The first filled path is the figure's own background; axes have none.
    text = file[file.index("<svg") :].replace('style="fill: #ffffff"', 'style="fill: none"', 1)
    text = text.replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    head, _, body = text.partition(">")
    # The page sets the width; the view box has the aspect ratio.
    head = re.sub(r' (?:width|height|version)="[^"]*"', "", head)
    return f"{head}>{body}"


@contextmanager
def plot_settings() -> Iterator[None]:
    """Set fonts and colours of matplotlib while a figure is drawn or saved."""
    import matplotlib

    settings: Any = {
        # Names and types of question are text, also with two dollar signs.
        "text.parse_math": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "tokensieve",
        "pdf.fonttype": 42,
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "axes.titlesize": 9.5,
        "axes.labelsize": 9,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "legend.fontsize": 8.5,
        "text.color": INK,
        "axes.facecolor": "none",
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "grid.color": INK,
        "grid.alpha": 0.14,
        "grid.linewidth": 0.6,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "lines.linewidth": 1.5,
        "lines.markersize": 4.5,
        "legend.frameon": False,
        # Long enough to show a dash on both sides of the marker.
        "legend.handlelength": 2.8,
        "legend.columnspacing": 1.2,
        "figure.constrained_layout.use": True,
    }
    with matplotlib.rc_context(settings):
        yield


def new_figure(width: float = 4.6, height: float = 3.9) -> Figure:
    """Return an empty figure of a size in inches; on a phone, letters in 4.6 have their size in print."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
