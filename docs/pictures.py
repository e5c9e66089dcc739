"""Draws the pictures of the gallery, the one for shared links, and those of the tasks: `python docs/pictures.py`.

Each picture of the gallery says in its own file which recipe it shows and what was kept, so that a test compares
content and no pixels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

import tokensieve as ts
from tokensieve.checkpoints.loading import load
from tokensieve.drawing.operands import StageView, watch
from tokensieve.drawing.picture import GAP, INK, PANEL, PAPER, Sheet
from tokensieve.drawing.show import draw_stages, last_of_ranges, require_drawable
from tokensieve.tasks.world import World, WorldPictures, WorldText, WorldVideo

ASSETS = Path(__file__).parent / "assets"
GALLERY = ASSETS / "gallery"
SCENE, QUESTION, MODEL = ASSETS / "scene.png", "what color is the cross?", "world-llava"
SHARED = "1/9"
"""The budget of recipes with one stage."""
CAPTION = 38
"""How many pixels above a panel its caption takes."""


def kept(recipe: ts.Recipe, views: list[StageView]) -> dict[str, Any]:
    """Return what a picture shows: the recipe's hash, and the kept ids of its stages."""
    return {"recipe": recipe.hash(), "stages": [[view.site, sorted(view.kept)] for view in views]}


def shown(every: int = 1) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Run recipes that can be drawn, and return the name, what was kept, and a function that draws it.

    Args:
        every: all of them by default; otherwise one of so many.
    """
    registry = ts.default_registry()
    checkpoint = registry.checkpoint(MODEL)
    ready = load(checkpoint.folder, registry, [])
    scene = Image.open(SCENE).convert("RGB")
    inputs = ready.inputs(scene, QUESTION)
    for name in sorted(registry.recipes)[::every]:
        recipe = ts.Recipe.load(name, registry)
        if len(recipe.stages) == 1:
            recipe = recipe.replace(keep=SHARED)
        try:
            require_drawable([recipe], ready.adapter)
            _, views = watch(ready, recipe, inputs, checkpoint.query_encoder, registry)
        except ts.TokensieveError:
            # The page says that what this model cannot run is missing.
            continue
        stages = last_of_ranges(recipe, views)
        draw = partial(draw_stages, ready, inputs, stages, scene, SCENE.name, QUESTION, f"the shipped {MODEL}")
        yield name, kept(recipe, stages), draw


def panels(sheet: Sheet, across: int = 3) -> Image.Image:
    """Return the panels of a sheet that say most: each operand's own best, and what is kept, so many side by side."""
    said = [panel for panel in sheet.panels if " of " in panel.caption or "its own" in panel.caption]
    lines = math.ceil(len(said) / across)
    width, height = PANEL + GAP, PANEL + CAPTION + GAP
    drawn = Image.new("RGB", (min(len(said), across) * width - GAP, lines * height - GAP), PAPER)
    for number, panel in enumerate(said):
        left, top = panel.at[0]
        line, column = divmod(number, across)
        drawn.paste(sheet.image.crop((left, top - CAPTION, left + PANEL, top + PANEL)), (column * width, line * height))
    return drawn


def social(drawn: Image.Image) -> Image.Image:
    """Return the picture for shared links, 1200 x 630, around panels."""
    card = Image.new("RGB", (1200, 630), PAPER)
    pen = ImageDraw.Draw(card)
    pen.text((60, 44), "tokensieve", "#00796B", ImageFont.load_default(72))
    pen.text((60, 136), "Drop or merge the visual tokens of multimodal models,", INK, ImageFont.load_default(32))
    pen.text((60, 178), "and know what it costs.", INK, ImageFont.load_default(32))
    drawn = drawn.resize((1080, round(drawn.height * 1080 / drawn.width)), Image.Resampling.LANCZOS)
    card.paste(drawn, (60, 630 - drawn.height - 24))
    return card


def save(image: Image.Image, said: dict[str, Any], file: Path) -> None:
    """Write a drawing of few colours, with what it shows in a text of the file."""
    info = PngInfo()
    info.add_text("kept", json.dumps(said))
    # The method that keeps rare colours: those of the frames and of what is lit.
    few = image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(file, optimize=True, pnginfo=info)


def worlds() -> Image.Image:
    """Return one drawing of each task of the embedded world, twice as large, side by side."""
    tasks = (World(pictures=1), WorldText(pictures=1), WorldPictures(pictures=1), WorldVideo(pictures=1))
    drawn = []
    for task in tasks:
        picture = task.picture(task.samples()[0])
        scale = 192 / picture.height
        drawn.append(picture.resize((round(picture.width * scale), 192), Image.Resampling.NEAREST))
    row = Image.new("RGB", (sum(one.width + GAP for one in drawn) - GAP, 192), PAPER)
    left = 0
    for one in drawn:
        row.paste(one, (left, 0))
        left += one.width + GAP
    return row


def main() -> None:
    """Draw all."""
    GALLERY.mkdir(exist_ok=True)
    worlds().save(ASSETS / "worlds.png", optimize=True)
    for name, said, draw in shown():
        drawn = panels(draw())
        small = drawn.resize((drawn.width * 2 // 3, drawn.height * 2 // 3), Image.Resampling.LANCZOS)
        save(small, said, GALLERY / f"{name}.png")
        if name == "script":
            save(social(drawn), said, ASSETS / "social.png")


if __name__ == "__main__":
    main()
