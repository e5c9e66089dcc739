"""What recipes cost on models of real size, as a table."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from rich.table import Table

from tokensieve.cli.console import cell
from tokensieve.cost.geometry import cost, layer_costs, visual_per_layer
from tokensieve.cost.language_model import prefill_flops
from tokensieve.cost.vision import VisionCost
from tokensieve.models.adapter import Adapter
from tokensieve.recipes.recipe import Recipe


def costs(
    title: str,
    recipes: Sequence[Recipe],
    adapter: Adapter,
    visual: int,
    text: int,
    vision: VisionCost | None = None,
) -> Table:
    """Return a table of counted FLOPs: the unpruned prefill, then every recipe's.

    Args:
        title: of the table.
        recipes: what to count.
        adapter: of the model.
        visual: visual tokens of the picture.
        text: text tokens of the prompt.
        vision: what encoding the picture costs, where the picture is known.
    """
    layers = layer_costs(adapter)
    # The tower that tokens leave in may not be the one that a video goes through.
    seen_by_tower = vision is None or vision.pictures > 0
    reduces = adapter.encoder is not None and adapter.encoder.prunes_prompt and seen_by_tower
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
    whole = prefill_flops(layers, [text + visual] * len(layers))

    def row(name: str, keep: str, per_layer: str, seen: int, spoken: int) -> None:
        tower = (f"{seen / 1e12:.3f}",) if vision is not None else ()
        share = (seen + spoken) / ((vision.whole if vision is not None else 0) + whole)
        table.add_row(cell(name), keep, per_layer, *tower, f"{spoken / 1e12:.3f}", f"{share:.1%}")

    row("unpruned", "", str(visual), vision.whole if vision is not None else 0, whole)
    for recipe in recipes:
        counts = visual_per_layer(recipe, [visual], len(layers), reduces)
        keeps = [str(keep) for keep, _ in itertools.groupby(stage.keep for stage in recipe.stages)]
        seen = vision.flops(recipe) if vision is not None else 0
        spoken = cost(recipe, layers, [visual], text, reduces)
        row(recipe.name, ", ".join(keeps), f"{sum(counts) / len(counts):.1f}", seen, spoken)
    return table
