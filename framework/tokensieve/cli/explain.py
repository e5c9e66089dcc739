"""The command `explain`: a recipe in words."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from tokensieve.cli import console
from tokensieve.cli.options import (
    Budget,
    OptionalShapedModel,
    PluginFiles,
    RecipeName,
    RecipeSettings,
    open_registry,
    parse_budgets,
)


def explain(
    recipe: RecipeName,
    model: OptionalShapedModel = None,
    keep: Budget = None,
    settings: RecipeSettings = None,
    visual: Annotated[
        Optional[int],  # noqa: UP045 - typer reads the annotation
        typer.Option(
            "--visual",
            min=1,
            help="Visual tokens of the example picture; by default those that a geometry has, or every picture.",
        ),
    ] = None,
    text: Annotated[int, typer.Option("--text", min=0, help="Text tokens of the example prompt.")] = 64,
    plugin: PluginFiles = None,
) -> None:
    """Say in words what a recipe does: where it cuts, from which evidence, how many tokens stay, what it costs."""
    from tokensieve.cost import explanation
    from tokensieve.cost.geometry import Geometry

    registry = open_registry(plugin)
    budgets = parse_budgets(keep)
    adapter, video = None, False
    if model is not None:
        from tokensieve.measure.subjects import find_source, planned_adapter

        source = find_source(model, registry)
        adapter = planned_adapter(source, registry, "sdpa")
        if isinstance(source, Geometry):
            # Another number of tokens is another picture.
            video = visual is None and source.shows_video(adapter)
            visual = visual or source.num_visual_tokens
        elif visual is None and adapter.decoder is not None:
            visual = adapter.decoder.tokens_per_image
    said = explanation.explain(
        recipe,
        adapter,
        keep=budgets,
        visual=visual,
        text=text,
        registry=registry,
        settings=settings or (),
        video=video,
    )
    console.echo(str(said))
    if adapter is not None and visual is None:
        console.warn("say --visual N, the visual tokens of a picture, and tokens of every layer and FLOPs are counted")
