"""The command `run`: a question about a picture, answered with fewer visual tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

from tokensieve.cli import console
from tokensieve.cli.checkpoints import query_encoder_folder
from tokensieve.cli.files import read_image, require_writable
from tokensieve.cli.options import (
    Budget,
    Device,
    Model,
    PluginFiles,
    QueryEncoder,
    RecipeName,
    RecipeSettings,
    open_registry,
    parse_budgets,
)


def run(
    recipe: RecipeName,
    model: Model,
    image: Annotated[Path, typer.Option("--image", metavar="FILE", help="The picture.")],
    prompt: Annotated[str, typer.Option("--prompt", metavar="TEXT", help="The question about it.")],
    keep: Budget = None,
    settings: RecipeSettings = None,
    json_file: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads the annotation
        typer.Option("--json", metavar="FILE", help="Write the ledger and the answer as JSON."),
    ] = None,
    save_kept: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads the annotation
        typer.Option("--save-kept", metavar="FILE", help="Write the kept tokens, for replay."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="The longest answer.")] = 64,
    query_encoder: QueryEncoder = None,
    device: Device = None,
    plugin: PluginFiles = None,
) -> None:
    """Answer a question about a picture with fewer visual tokens, and print the ledger."""
    from tokensieve.recipes.recipe import Recipe

    registry = open_registry(plugin)
    budgets = parse_budgets(keep)
    loaded = Recipe.load(recipe, registry, keep=budgets, settings=settings or ())
    for file in (json_file, save_kept):
        require_writable(file)
    picture = read_image(image)
    from tokensieve.checkpoints.asking import answer
    from tokensieve.checkpoints.loading import checkpoint_named, load

    encoder = query_encoder_folder(model, query_encoder, registry)
    ready = load(checkpoint_named(model, registry), registry, (loaded,), device)
    text, ledger = answer(ready, loaded, picture, prompt, max_new_tokens, encoder, registry)
    console.echo(text)
    console.echo()
    console.show(ledger.table())
    if json_file is not None:
        content = {"prompt": prompt, "image": image.name, "answer": text, **ledger.to_dict()}
        json_file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        console.warn(f"ledger: {json_file}")
    if save_kept is not None:
        ledger.save(save_kept)
        console.warn(f"kept tokens: {save_kept}")
