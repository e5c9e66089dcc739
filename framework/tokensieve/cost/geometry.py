"""Counting what a recipe costs on a model of real size, without its weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Any

import torch
from torch import Tensor, nn

from tokensieve.algebra.budget import count
from tokensieve.cost.language_model import LayerCost, prefill_flops
from tokensieve.errors import RefusedError
from tokensieve.models.adapter import Adapter
from tokensieve.recipes.recipe import Recipe


@dataclass(frozen=True)
class Geometry:
    """The shape of a released model.

    Attributes:
        name: what it is called.
        visual: visual tokens of the picture or video that `of` describes.
        of: which picture or video.
        config: the model's config, with `model_type`.
        pixels: the shape of the picture or video as the model's processor hands it over.
        sizes: what the processor says of it besides, by argument.
        argument: what the pixels are called.
    """

    name: str
    visual: int
    of: str
    config: dict[str, Any]
    pixels: tuple[int, ...]
    sizes: dict[str, list[Any]]
    argument: str = "pixel_values"

    @classmethod
    def load(cls, file: Traversable) -> Geometry:
        """Read a geometry from its JSON file."""
        content = json.loads(file.read_text(encoding="utf-8"))
        name = file.name.removesuffix(".json")
        pixels, sizes = tuple(content["pixels"]), content.get("sizes", {})
        argument = content.get("argument", "pixel_values")
        return cls(name, content["visual"], content["of"], content["config"], pixels, sizes, argument)

    def inputs(self) -> dict[str, Tensor]:
        """Return the picture or video as arguments of the model: pixels on the meta device."""
        sizes = {name: torch.tensor(values) for name, values in self.sizes.items()}
        return {self.argument: torch.empty(self.pixels, device="meta")} | sizes

    def model(self) -> nn.Module:
        """Build the model on the meta device: its shapes, and no numbers."""
        from transformers import AutoConfig, AutoModelForImageTextToText

        settings = dict(self.config)
        config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        with torch.device("meta"):
            model: nn.Module = AutoModelForImageTextToText.from_config(config)
        return model


def layer_costs(adapter: Adapter) -> tuple[LayerCost, ...]:
    """Read off what each layer of a language model costs.

    Raises:
        RefusedError: if the model has none.
    """
    decoder = adapter.decoder
    if decoder is None:
        raise RefusedError(f"{type(adapter.model).__name__} has no language model whose cost could be counted")
    return tuple(LayerCost.of(layer, decoder.text_config) for layer in decoder.layers)


def visual_per_layer(recipe: Recipe, images: Sequence[int], layers: int, reduces: bool = False) -> list[int]:
    """Return how many visual tokens each layer processes, before anything runs.

    Args:
        recipe: with stages in the language model.
        images: visual tokens of each image of a prompt.
        layers: how many layers there are.
        reduces: whether tokens that leave in the vision encoder leave the prompt (see `Encoder.prunes_prompt`).

    Raises:
        RefusedError: if a stage's size depends on more than the number of tokens.
    """
    stages = {stage.at.block: stage for stage in recipe.stages if stage.at.part == "decoder"}
    groups, counts = list(images), []
    for stage in recipe.stages if reduces else ():
        if stage.at.part == "encoder":
            groups = [count(stage.keep, n) for n in groups]
    for layer in range(layers):
        if layer in stages:
            stage = stages[layer]
            if stage.keep.auto or stage.per not in ("image", "sample"):
                said = "keep: auto" if stage.keep.auto else f"per: {stage.per}"
                raise RefusedError(f"'{recipe.name}' has {said} at {stage.at}: what stays depends on the picture")
            groups = [sum(groups)] if stage.per == "sample" else groups
            groups = [count(stage.keep, n) if n else 0 for n in groups]
        counts.append(sum(groups))
    return counts


def cost(recipe: Recipe, layers: Sequence[LayerCost], images: Sequence[int], text: int, reduces: bool = False) -> int:
    """Count the FLOPs of a pruned prefill; see `prefill_flops` for what is in them."""
    return prefill_flops(layers, [text + n for n in visual_per_layer(recipe, images, len(layers), reduces)])
