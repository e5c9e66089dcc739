"""Drawings of kept tokens: kept patches of the photo stay bright, with a frame in the colour of each operand."""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tokensieve.algebra.markup import PALETTE as PALETTE
from tokensieve.drawing.operands import StageView
from tokensieve.errors import plain

NOBODY = "#FFFFFF"
"""The colour of tokens that are kept, though no operand would have kept them alone."""
INK, SOFT, PAPER = "#1A1A1A", "#5C5C5C", "#FFFFFF"
DIM = 0.25
"""The brightness of a patch whose token is not kept."""

PANEL = 384
MARGIN, GAP = 44, 28
ACROSS = 5
H1, H2, BODY = 38, 32, 25


@dataclass(frozen=True)
class View:
    """A picture as the model sees it, with its grid of patches.

    Attributes:
        image: RGB, `cell` pixels for each patch.
        places: the row and column of each token, by id.
        cell: the side of a patch in pixels.
    """

    image: Image.Image
    places: Mapping[int, tuple[int, int]]
    cell: int

    def box(self, token: int) -> tuple[int, int, int, int]:
        """Return the left, top, right and bottom of a patch, in pixels."""
        row, column = self.places[token]
        x, y = column * self.cell, row * self.cell
        return x, y, x + self.cell, y + self.cell


@dataclass(frozen=True)
class PlacedPanel:
    """A panel on a sheet.

    Attributes:
        recipe: the name of its recipe.
        site: of its stage.
        caption: the text above it.
        tokens: ids of the bright patches.
        at: the left and top of each view, in pixels of the sheet.
    """

    recipe: str
    site: str
    caption: str
    tokens: frozenset[int]
    at: tuple[tuple[int, int], ...]


@dataclass(frozen=True, repr=False)
class Sheet:
    """A finished drawing.

    Attributes:
        image: RGB.
        views: the views in every panel.
        panels: all panels, with their positions.
    """

    image: Image.Image
    views: tuple[View, ...]
    panels: tuple[PlacedPanel, ...]

    def save(self, path: str | Path) -> None:
        """Write the drawing to a file; the ending of its name says in which format."""
        self.image.save(path)

    def _repr_png_(self) -> bytes:
        """Return what a notebook shows."""
        buffer = io.BytesIO()
        self.image.save(buffer, format="PNG")
        return buffer.getvalue()

    def __repr__(self) -> str:
        width, height = self.image.size
        return f"<Sheet of {len(self.panels)} panels, {width} x {height} pixels; .image, .save(path)>"


@dataclass(frozen=True)
class Panel:
    """A panel to draw: bright patches, each with the colours of the operands that would have kept it."""

    caption: str
    colours: Mapping[int, tuple[str, ...]]


@dataclass(frozen=True)
class LegendEntry:
    """An entry of a legend: a swatch of colours, and its meaning."""

    colours: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Band:
    """Panels side by side under a heading, with a legend below."""

    stages: tuple[StageView, ...]
    panels: tuple[Panel, ...]
    heading: str | None = None
    detail: str = ""
    legend: tuple[LegendEntry, ...] = ()
    remark: str = ""

    @property
    def across(self) -> int:
        """How many panels are side by side: no more than fit, in lines of nearly equal length."""
        lines = math.ceil(len(self.panels) / ACROSS)
        return math.ceil(len(self.panels) / lines) if lines else 0


def views_of(photo: Image.Image, crops: Sequence[Image.Image], grid: Tensor) -> tuple[View, ...]:
    """Return the views of a prompt's one picture.

    Tiles without a common place are parts of one view: they are the tiles of a picture whose rows and columns are
    counted over all tiles.

    Args:
        photo: the original picture, for models whose crops do not fit their patches.
        crops: the pictures that the processor made of it; they are used if there is one for each view.
        grid: part, tile, frame, row and column of each token, int64 `[tokens, 5]`; a negative column is no patch.
    """
    tiles: dict[tuple[int, int, int], dict[int, tuple[int, int]]] = {}
    for token, (part, tile, frame, row, column) in enumerate(grid.tolist()):
        if column >= 0:
            tiles.setdefault((part, tile, frame), {})[token] = row, column
    members: list[dict[int, tuple[int, int]]] = []
    before: tuple[int, int] | None = None
    for (part, _, frame), own in tiles.items():
        if before == (part, frame) and not set(own.values()) & set(members[-1].values()):
            members[-1] |= own
        else:
            members.append(own)
        before = part, frame
    across = math.ceil(math.sqrt(len(members)))
    views = []
    for number, places in enumerate(members):
        rows = 1 + max(row for row, _ in places.values())
        columns = 1 + max(column for _, column in places.values())
        cell = max(8, PANEL // (max(rows, columns) * across))
        source = crops[number] if len(crops) == len(members) else photo
        views.append(View(source.convert("RGB").resize((columns * cell, rows * cell)), places, cell))
    return tuple(views)


def sheet(
    views: Sequence[View],
    bands: Sequence[Band],
    title: str,
    notes: Sequence[str],
) -> Sheet:
    """Draw the photo with text beside it, and the bands below.

    Args:
        views: the picture as the model sees it.
        bands: from top to bottom.
        title: above the notes.
        notes: paragraphs beside the photo.
    """
    return _Layout(views, bands, title, notes).sheet()


def band(stage: StageView) -> Band:
    """Return the panels of a stage: what each operand keeps alone, what is in all and in any, and what was kept."""
    colour = colours(stage)
    names = list(stage.own)
    if len(names) < 2:
        return Band((stage,), (_alone(stage),))
    panels = [
        Panel(f"{name}: its own {len(ids)} best", dict.fromkeys(ids, (colour[name],)))
        for name, ids in stage.own.items()
    ]
    every = frozenset.intersection(*stage.own.values())
    some = frozenset.union(*stage.own.values())
    which = "both" if len(names) == 2 else f"all {len(names)}"
    for caption, tokens in ((f"in {which}: {len(every)}", every), (f"in any: {len(some)}", some)):
        panels.append(Panel(caption, {token: _by(stage, colour, token) for token in tokens}))
    panels.append(Panel(f"kept: {len(stage.kept)} of {stage.entered}", {t: _by(stage, colour, t) for t in stage.kept}))
    had = ", ".join(f"{name} {len(ids & stage.kept)}" for name, ids in stage.own.items())
    return Band(
        (stage,),
        tuple(panels),
        stage.recipe,
        f"{_bare(stage.formula)}   at {stage.site}   keep {stage.keep}",
        tuple(_legend(stage, colour)),
        f"Of the {len(stage.kept)} kept, in their own best: {had}. Places read: {stage.depth} of {stage.entered}.",
    )


def bands_of(stages: Sequence[StageView]) -> list[Band]:
    """Return a band for every stage with several operands; stages with one operand share bands."""
    bands: list[Band] = []
    for one in stages:
        new = band(one)
        before = bands[-1] if bands else None
        if new.heading is None and before is not None and before.heading is None and len(before.panels) < ACROSS:
            bands[-1] = Band((*before.stages, *new.stages), (*before.panels, *new.panels))
        else:
            bands.append(new)
    return bands


def colours(stage: StageView) -> dict[str, str]:
    """Return the colour of every operand, by name."""
    return {name: PALETTE[number % len(PALETTE)] for number, name in enumerate(stage.own)}


def _alone(stage: StageView) -> Panel:
    at = "" if stage.site == "decoder.0" else f" at {stage.site}"
    return Panel(f"{stage.recipe}{at}: {len(stage.kept)} of {stage.entered}", dict.fromkeys(stage.kept, (PALETTE[0],)))


def _by(stage: StageView, colour: Mapping[str, str], token: int) -> tuple[str, ...]:
    return tuple(colour[name] for name in stage.owners(token)) or (NOBODY,)


def _legend(stage: StageView, colour: Mapping[str, str]) -> list[LegendEntry]:
    """Return the counts of kept tokens, by the operands that would have kept them alone."""
    groups: dict[tuple[str, ...], int] = {}
    for token in stage.kept:
        owners = stage.owners(token)
        groups[owners] = groups.get(owners, 0) + 1
    entries = [LegendEntry((colour[name],), f"{groups.get((name,), 0)} only {name}") for name in stage.own]
    several: dict[tuple[str, ...], int] = {owners: number for owners, number in groups.items() if len(owners) > 1}
    if len(stage.own) == 2:
        both = tuple(stage.own)
        entries.append(LegendEntry(tuple(colour.values()), f"{several.get(both, 0)} both"))
    else:
        entries.append(LegendEntry(tuple(colour.values())[:4], f"{sum(several.values())} several"))
    entries.append(LegendEntry((NOBODY,), f"{groups.get((), 0)} in nobody's own best"))
    return entries


def _bare(formula: str) -> str:
    return formula[1:-1] if formula.startswith("(") and formula.endswith(")") and formula.count("(") == 1 else formula


@dataclass
class _Layout:
    """Lays out a sheet from top to bottom. It is drawn twice: first to measure its height."""

    views: Sequence[View]
    bands: Sequence[Band]
    title: str
    notes: Sequence[str]
    fonts: dict[int, ImageFont.FreeTypeFont | ImageFont.ImageFont] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.fonts = {size: ImageFont.load_default(size) for size in (H1, H2, BODY)}
        self.columns = math.ceil(math.sqrt(len(self.views)))
        wide = max(view.image.width for view in self.views)
        tall = max(view.image.height for view in self.views)
        self.step = wide + 4, tall + 4
        rows = math.ceil(len(self.views) / self.columns)
        self.panel = self.columns * self.step[0] - 4, rows * self.step[1] - 4
        self.slot = max(PANEL, self.panel[0])
        most = max((band.across for band in self.bands), default=0)
        # The photo and its text need three slots.
        across = max(3, most)
        self.width = 2 * MARGIN + across * self.slot + (across - 1) * GAP
        self.panels: list[PlacedPanel] = []

    def sheet(self) -> Sheet:
        """Measure, then draw."""
        height = self._print(Image.new("RGB", (self.width, 8)))
        image = Image.new("RGB", (self.width, height), PAPER)
        self.panels.clear()
        self._print(image)
        return Sheet(image, tuple(self.views), tuple(self.panels))

    def _print(self, image: Image.Image) -> int:
        draw = ImageDraw.Draw(image)
        y = self._head(image, draw)
        for band in self.bands:
            y = self._band(image, draw, band, y + 2 * GAP)
        return y + MARGIN

    def _head(self, image: Image.Image, draw: ImageDraw.ImageDraw) -> int:
        top = MARGIN
        for number, view in enumerate(self.views):
            x, y = self._corner(MARGIN, top, number)
            image.paste(view.image, (x, y))
        x = MARGIN + self.slot + 2 * GAP
        room = self.width - MARGIN - x
        y = self._text(draw, x, top - 6, self.title, H1, INK, room) + 12
        for note in self.notes:
            y = self._text(draw, x, y, note, BODY, SOFT, room) + 12
        return max(top + self.panel[1], y)

    def _band(self, image: Image.Image, draw: ImageDraw.ImageDraw, band: Band, y: int) -> int:
        room = self.width - 2 * MARGIN
        draw.line((MARGIN, y - GAP, self.width - MARGIN, y - GAP), fill="#D0D0D0", width=2)
        if band.heading is not None:
            end = self._text(draw, MARGIN, y, band.heading, H2, INK, room)
            y = self._text(draw, MARGIN, end, band.detail, BODY, SOFT, room) + 14
        for start in range(0, len(band.panels), band.across):
            some = band.panels[start : start + band.across]
            captions = [
                self._text(draw, MARGIN + i * (self.slot + GAP), y, plain(panel.caption), BODY, INK, self.slot)
                for i, panel in enumerate(some)
            ]
            y = max(captions) + 8
            for i, panel in enumerate(some):
                one = band.stages[start + i] if band.heading is None else band.stages[0]
                self._panel(image, panel, one, MARGIN + i * (self.slot + GAP), y)
            y += self.panel[1] + GAP
        y -= GAP
        if band.legend:
            y = self._legend(draw, band.legend, y + 14, room)
            y = self._text(draw, MARGIN, y + 4, band.remark, BODY, SOFT, room)
        return y

    def _panel(self, image: Image.Image, panel: Panel, stage: StageView, x: int, y: int) -> None:
        corners = tuple(self._corner(x, y, number) for number in range(len(self.views)))
        for view, corner in zip(self.views, corners, strict=True):
            image.paste(highlight(view, panel.colours), corner)
        self.panels.append(PlacedPanel(stage.recipe, stage.site, panel.caption, frozenset(panel.colours), corners))

    def _corner(self, x: int, y: int, number: int) -> tuple[int, int]:
        row, column = divmod(number, self.columns)
        return x + column * self.step[0], y + row * self.step[1]

    def _legend(self, draw: ImageDraw.ImageDraw, legend: Sequence[LegendEntry], y: int, room: int) -> int:
        x, side = MARGIN, BODY
        for entry in legend:
            text = plain(entry.text)
            wide = side + 10 + int(self.fonts[BODY].getlength(text)) + 36
            if x > MARGIN and x + wide > MARGIN + room:
                x, y = MARGIN, y + BODY + 14
            # Dark inside, as the photo is beside a frame, so that white shows on the white sheet.
            draw.rectangle((x - 1, y + 2, x + side, y + 3 + side), fill=INK)
            draw_frame(draw, (x, y + 3, x + side, y + 3 + side), entry.colours, 5)
            draw.text((x + side + 10, y), text, fill=INK, font=self.fonts[BODY])
            x += wide
        return y + BODY + 14

    def _text(self, draw: ImageDraw.ImageDraw, x: int, y: int, text: str, size: int, colour: str, room: int) -> int:
        """Draw text in lines no wider than `room`, and return the y below it."""
        font = self.fonts[size]
        for line in lines(plain(text).replace("\n", " ").replace("\t", " "), font, room):
            draw.text((x, y), line, fill=colour, font=font)
            y += round(1.35 * size)
        return y


def lines(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: int) -> list[str]:
    """Return text broken into lines no wider than `room` pixels, between words if possible."""
    out: list[str] = []
    line = ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if font.getlength(longer) <= room:
            line = longer
            continue
        if line:
            out.append(line)
        while font.getlength(word) > room:
            fits = max(1, next(i for i in range(len(word)) if font.getlength(word[: i + 1]) > room))
            out.append(word[:fits])
            word = word[fits:]
        line = word
    return [*out, line]


def highlight(view: View, colours: Mapping[int, tuple[str, ...]]) -> Image.Image:
    """Return a view whose tokens in `colours` are bright, with frames in their colours, and the others dimmed."""
    image = view.image.point([round(DIM * value) for value in range(256)] * len(view.image.getbands()))
    draw = ImageDraw.Draw(image)
    for token in _in(view, colours):
        box = view.box(token)
        image.paste(view.image.crop(box), box[:2])
        width = max(1, view.cell // 8)
        draw_frame(draw, box, colours[token], width)
        if width > 1:
            # A thin dark line, so that a frame shows on a patch of its own colour.
            left, top, right, bottom = box
            inner = (left + width, top + width, right - width - 1, bottom - width - 1)
            draw.rectangle(inner, outline=INK)
    return image


def _in(view: View, tokens: Collection[int]) -> list[int]:
    return sorted(token for token in tokens if token in view.places)


def draw_frame(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], colours: Sequence[str], width: int) -> None:
    """Draw a frame inside a box; several colours share its sides, beginning at the left and the top."""
    left, top, right, bottom = box
    sides = (
        (left, top, left + width, bottom),
        (left, top, right, top + width),
        (right - width, top, right, bottom),
        (left, bottom - width, right, bottom),
    )
    for number, (x0, y0, x1, y1) in enumerate(sides):
        colour = colours[number * len(colours) // 4 if len(colours) <= 4 else number]
        draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill=colour)
