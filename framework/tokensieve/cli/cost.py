"""The command `cost`: the counted FLOPs of recipes on models of real size."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.table import Table

from tokensieve.cli import console
from tokensieve.cli.console import cell
from tokensieve.cli.options import (
    Budget,
    OptionalModel,
    PluginFiles,
    RecipeNames,
    RecipeSettings,
    open_registry,
    parse_budgets,
)
from tokensieve.errors import RefusedError, listing

if TYPE_CHECKING:
    from tokensieve.cost.vision import VisionCost
    from tokensieve.models.adapter import Adapter
    from tokensieve.recipes.recipe import Recipe


def cost(
    recipes: RecipeNames,
    geometry: Annotated[
        Optional[str],  # noqa: UP045 - typer reads the annotation
        typer.Option("--geometry", metavar="NAME", help="A released model, such as llava-1_5-7b."),
    ] = None,
    model: OptionalModel = None,
    visual: Annotated[
        Optional[int],  # noqa: UP045 - typer reads the annotation
        typer.Option("--visual", min=1, help="Visual tokens of the picture; needed with --model."),
    ] = None,
    text: Annotated[int, typer.Option("--text", min=0, help="Text tokens of the prompt.")] = 64,
    keep: Budget = None,
    settings: RecipeSettings = None,
    plugin: PluginFiles = None,
) -> None:
    """Count what recipes cost on a model of real size, without its weights."""
    from tokensieve.cli.recipes import load_recipes

    registry = open_registry(plugin)
    loaded = load_recipes(recipes, registry, parse_budgets(keep), settings)
    from tokensieve.checkpoints.loading import checkpoint_named, load_adapter
    from tokensieve.cost.geometry import Geometry
    from tokensieve.cost.vision import VisionCost
    from tokensieve.recipes.review import review

    # Of a model that is given alone, whether it is there comes before how many tokens its pictures have.
    folder = None if model is None or geometry is not None else checkpoint_named(model, registry)
    if geometry in registry.checkpoints:
        console.warn(f"'{geometry}' is a checkpoint, and no geometry: say --model {geometry} --visual N")
        raise typer.Exit(2)
    if (geometry is None) == (model is None) or (model is not None and visual is None):
        console.warn("say --geometry NAME, or --model DIR and --visual N; geometries: " + listing(registry.geometries))
        raise typer.Exit(2)
    vision = None
    if folder is not None:
        adapter, title = load_adapter(folder, registry), str(model)
    else:
        shape = Geometry.load(registry.geometry(str(geometry)))
        with console.working("building the model without its weights, and counting what a picture costs"):
            adapter, title = registry.adapter_for(shape.model()), f"{shape.name}, {shape.description}"
            # Another number of tokens is another picture.
            vision = VisionCost.of(adapter, shape.inputs()) if visual is None else None
        visual = visual or shape.num_visual_tokens
    for recipe in loaded:
        for finding in review(recipe, adapter):
            if finding.level == "error":
                raise RefusedError(f"recipe '{recipe.name}' cannot run on {type(adapter.model).__name__}: {finding}")
    console.show(costs_table(title, loaded, adapter, int(visual or 0), text, vision))


def costs_table(
    title: str,
    recipes: Sequence[Recipe],
    adapter: Adapter,
    visual: int,
    text: int,
    vision: VisionCost | None = None,
) -> Table:
    """Return a table of counted FLOPs: of the unpruned prefill, then of every recipe.

    Args:
        title: of the table.
        recipes: what to count.
        adapter: of the model.
        visual: visual tokens of the picture.
        text: text tokens of the prompt.
        vision: the FLOPs of encoding the picture, if the picture is known.
    """
    from tokensieve.cost.geometry import layer_costs, pruned_prefill_flops, visual_per_layer
    from tokensieve.cost.language_model import prefill_flops

    layers = layer_costs(adapter)
    # A video may go through another encoder than the one in which tokens are pruned.
    encodes_images = vision is None or vision.num_images > 0
    encoder_prunes = adapter.encoder is not None and adapter.encoder.prunes_prompt and encodes_images
    parts = "the language model's layers" + (
        ", and of everything that encodes the picture" if vision is not None else "; the picture is not known"
    )
    table = Table(
        title=title,
        title_justify="left",
        caption=f"A prompt of {visual} visual and {text} text tokens. per layer: mean visual tokens per layer of the "
        f"language model (LM). TFLOPs: counted, of {parts}. A multiply-add is two, attention is counted in full. The "
        "head and the selection are not in them.",
        caption_justify="left",
    )
    table.add_column("recipe", overflow="fold")
    table.add_column("keep", justify="right", overflow="fold")
    for column in ("per layer", *(("vision",) if vision is not None else ()), "LM", "of unpruned"):
        table.add_column(column, justify="right", no_wrap=True)
    vision_unpruned = vision.unpruned_flops if vision is not None else 0
    prefill_unpruned = prefill_flops(layers, [text + visual] * len(layers))

    def add_row(name: str, keep: str, per_layer: str, vision_flops: int, prefill: int) -> None:
        encoding = (f"{vision_flops / 1e12:.3f}",) if vision is not None else ()
        share = (vision_flops + prefill) / (vision_unpruned + prefill_unpruned)
        table.add_row(cell(name), keep, per_layer, *encoding, f"{prefill / 1e12:.3f}", f"{share:.1%}")

    add_row("unpruned", "", str(visual), vision_unpruned, prefill_unpruned)
    for recipe in recipes:
        counts = visual_per_layer(recipe, [visual], len(layers), encoder_prunes)
        keeps = [str(keep) for keep, _ in itertools.groupby(stage.keep for stage in recipe.stages)]
        vision_flops = vision.flops(recipe) if vision is not None else 0
        prefill = pruned_prefill_flops(recipe, layers, [visual], text, encoder_prunes)
        add_row(recipe.name, ", ".join(keeps), f"{sum(counts) / len(counts):.1f}", vision_flops, prefill)
    return table
