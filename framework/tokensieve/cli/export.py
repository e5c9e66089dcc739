"""The command `export`: a prefill with the selection inside, as a graph for other runtimes."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from tokensieve.cli import console
from tokensieve.cli.files import read_image, require_writable
from tokensieve.cli.options import (
    Budget,
    Model,
    PluginFiles,
    RecipeName,
    RecipeSettings,
    open_registry,
    parse_budgets,
)
from tokensieve.errors import RefusedError

if TYPE_CHECKING:
    from PIL import Image


class Form(StrEnum):
    """What `--to` takes."""

    TORCH = "torch"
    ONNX = "onnx"
    OPENVINO = "openvino"


class Places(StrEnum):
    """What `--logits` takes."""

    LAST = "last"
    ALL = "all"


def export(
    recipe: RecipeName,
    model: Model,
    to: Annotated[Form, typer.Option("--to", help="The form of the graph.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to: .pt2, .onnx or .xml.")],
    prompt: Annotated[str, typer.Option("--prompt", metavar="TEXT", help="The question; its length is fixed.")],
    image: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads the annotation
        typer.Option("--image", metavar="FILE", help="A picture of the size that the graph will take."),
    ] = None,
    image_size: Annotated[
        Optional[str],  # noqa: UP045 - typer reads the annotation
        typer.Option("--image-size", metavar="HxW", help="The size alone; a picture of noise is the example."),
    ] = None,
    keep: Budget = None,
    settings: RecipeSettings = None,
    logits: Annotated[Places, typer.Option("--logits", help="At which kept places.")] = Places.LAST,
    plugin: PluginFiles = None,
) -> None:
    """Write the prefill of one prompt and one picture, with the selection inside, as a graph of fixed shape."""
    from tokensieve.recipes.recipe import Recipe

    registry = open_registry(plugin)
    loaded = Recipe.load(recipe, registry, keep=parse_budgets(keep), settings=settings or ())
    require_writable(out)
    example = _example(image, image_size)
    from tokensieve.checkpoints.loading import checkpoint_named, load
    from tokensieve.exporting.export import export as export_model
    from tokensieve.exporting.refusals import exported_stage
    from tokensieve.exporting.targets import TARGETS

    TARGETS[to].check(out)
    exported_stage(loaded)
    ready = load(checkpoint_named(model, registry), registry, (loaded,), "cpu", dtype="float32")
    made = export_model(
        ready.model,
        loaded,
        ready.inputs(example, prompt),
        to=to.value,
        out=out,
        logits=logits.value,
        registry=registry,
    )
    layout, compared = made.about["layout"], made.about["compared"]
    console.echo(
        f"{layout['kept']} of {layout['visual_tokens']} visual tokens in a prompt of {len(layout['input_ids'])}; "
        f"on {compared['examples']} pictures the tokens that prune keeps, and its logits to "
        f"{compared['largest_difference_of_a_logit']:.1g}"
    )
    for file in made.files:
        console.echo(str(file))


def _example(image: Path | None, size: str | None) -> Image.Image:
    """Return the picture of `--image`, or noise of `--image-size`.

    Raises:
        RefusedError: if the size cannot be read, or not exactly one of both is given.
    """
    if (image is None) == (size is None):
        raise typer.BadParameter("give --image FILE or --image-size HxW: the graph takes pictures of that size alone")
    if image is not None:
        return read_image(image)
    found = re.fullmatch(r"([1-9]\d{0,4})[xX]([1-9]\d{0,4})", str(size))
    if found is None:
        raise RefusedError(f"--image-size is height and width in pixels, such as 336x448, not {size!r}")
    import numpy as np
    from PIL import Image

    height, width = (int(one) for one in found.groups())
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)
