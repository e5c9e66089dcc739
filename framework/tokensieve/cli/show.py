"""The command `show`: drawings of the tokens that recipes keep of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tokensieve.cli import console
from tokensieve.cli.checkpoints import query_encoder_folder
from tokensieve.cli.files import make_folder, read_image, require_name
from tokensieve.cli.options import (
    Budget,
    Device,
    OptionalModel,
    PluginFiles,
    QueryEncoder,
    RecipeNames,
    RecipeSettings,
    open_registry,
    output_path,
    parse_budgets,
)
from tokensieve.drawing import QUESTION


def show(
    recipes: RecipeNames,
    image: Annotated[
        list[Path], typer.Option("--image", metavar="FILE", help="The picture; give it again for more of them.")
    ],
    model: OptionalModel = None,
    prompt: Annotated[str, typer.Option("--prompt", metavar="TEXT", help="The question about it.")] = QUESTION,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", parser=output_path, help="Where the pictures go.")
    ] = Path(),
    keep: Budget = None,
    settings: RecipeSettings = None,
    query_encoder: QueryEncoder = None,
    device: Device = None,
    plugin: PluginFiles = None,
) -> None:
    """Draw what recipes keep of a picture, and which operand chose what.

    Without a model, a small example of real geometry and random weights is made for it.
    """
    from tokensieve.cli.recipes import load_recipes

    registry = open_registry(plugin)
    loaded = load_recipes(recipes, registry, parse_budgets(keep), settings)
    pictures = [(file, read_image(file)) for file in image]
    from tokensieve.checkpoints.loading import checkpoint_named, checkpoint_or_example, load
    from tokensieve.drawing.show import draw

    given = None if model is None else checkpoint_named(model, registry)
    names = file_names(image)
    require_name(out)
    for name in names:
        require_name(out / name, "file")
    make_folder(out)
    encoder = query_encoder_folder(model, query_encoder, registry)
    with checkpoint_or_example(given, registry, loaded) as (folder, description):
        ready = load(folder, registry, loaded, device)
    if description is not None:
        console.warn(f"No model was given, so this is the example: {description}.")
    for name, (file, picture) in zip(names, pictures, strict=True):
        drawn = draw(ready, loaded, picture, file.name, prompt, encoder, registry, description)
        drawn.save(out / name)
        console.echo(str(out / name))


def file_names(images: Sequence[Path]) -> list[str]:
    """Return a file name for the drawing of each image; names that would clash get a number."""
    names: list[str] = []
    for image in images:
        name, number = f"{image.stem}.kept.png", 1
        while name in names:
            number += 1
            name = f"{image.stem}.{number}.kept.png"
        names.append(name)
    return names
