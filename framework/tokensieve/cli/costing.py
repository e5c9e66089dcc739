"""What recipes cost on models of real size, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from tokensieve.cli.console import cell
from tokensieve.measure.cost import LayerCost, prefill_flops
from tokensieve.measure.geometry import cost, visual_per_layer
from tokensieve.recipe import Recipe


def costs(title: str, recipes: Sequence[Recipe], layers: Sequence[LayerCost], visual: int, text: int) -> Table:
    """Give a table of counted FLOPs: the unpruned prefill, then every recipe's."""
    table = Table(
        title=title,
        title_justify="left",
        caption=f"A prompt of {visual} visual and {text} text tokens. per layer: mean visual tokens per layer. FLOPs: "
        "counted, of the language model's layers; a multiply-add is two, attention is counted in full. The vision "
        "tower, the head and the selection are not in them.",
        caption_justify="left",
    )
    table.add_column("recipe", overflow="fold")
    for column in ("keep", "per layer", "LM TFLOPs", "of unpruned"):
        table.add_column(column, justify="right", no_wrap=True)
    whole = prefill_flops(layers, [text + visual] * len(layers))
    table.add_row("unpruned", "", str(visual), f"{whole / 1e12:.3f}", "100.0%")
    for recipe in recipes:
        counts = visual_per_layer(recipe, [visual], len(layers))
        flops = cost(recipe, layers, [visual], text)
        table.add_row(
            cell(recipe.name),
            ", ".join(str(stage.keep) for stage in recipe.stages),
            f"{sum(counts) / len(counts):.1f}",
            f"{flops / 1e12:.3f}",
            f"{flops / whole:.1%}",
        )
    return table
