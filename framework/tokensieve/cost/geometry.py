"""Counted FLOPs of a recipe on a released model, from its config alone."""

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
from tokensieve.stage import Stage


@dataclass(frozen=True)
class Geometry:
    """The config of a released model, and the inputs of one example image or video.

    Attributes:
        name: the name of the geometry.
        num_visual_tokens: the number of visual tokens of the example.
        description: which image or video the example is.
        config: the config of the model, with `model_type`.
        pixel_shape: the shape of the pixels as the model's processor returns them.
        extra_inputs: the processor's other outputs for the example, such as grids, by argument.
        pixel_argument: the argument of forward that holds the pixels.
    """

    name: str
    num_visual_tokens: int
    description: str
    config: dict[str, Any]
    pixel_shape: tuple[int, ...]
    extra_inputs: dict[str, list[Any]]
    pixel_argument: str = "pixel_values"

    @classmethod
    def load(cls, file: Traversable) -> Geometry:
        """Read a geometry from its JSON file."""
        content = json.loads(file.read_text(encoding="utf-8"))
        name = file.name.removesuffix(".json")
        pixels, sizes = tuple(content["pixels"]), content.get("sizes", {})
        argument = content.get("argument", "pixel_values")
        return cls(name, content["visual"], content["of"], content["config"], pixels, sizes, argument)

    def inputs(self) -> dict[str, Tensor]:
        """Return the example as arguments of the model, with pixels on the meta device."""
        sizes = {name: torch.tensor(values) for name, values in self.extra_inputs.items()}
        return {self.pixel_argument: torch.empty(self.pixel_shape, device="meta")} | sizes

    def shows_video(self, adapter: Adapter) -> bool:
        """Return whether the example is a video, as the adapter of the model takes it."""
        modalities = adapter.decoder.modalities if adapter.decoder is not None else ()
        return any(one.name == "video" and one.pixel_argument == self.pixel_argument for one in modalities)

    def model(self) -> nn.Module:
        """Return the model on the meta device, with shapes but without weights."""
        from transformers import AutoConfig, AutoModelForImageTextToText

        settings = dict(self.config)
        config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        with torch.device("meta"):
            model: nn.Module = AutoModelForImageTextToText.from_config(config)
        return model


def layer_costs(adapter: Adapter) -> tuple[LayerCost, ...]:
    """Return the cost of each layer of the adapter's language model.

    Raises:
        RefusedError: if the model has no language model.
    """
    decoder = adapter.decoder
    if decoder is None:
        raise RefusedError(f"{type(adapter.model).__name__} has no language model whose cost could be counted")
    return tuple(LayerCost.of(layer, decoder.text_config) for layer in decoder.layers)


def visual_per_layer(
    recipe: Recipe, images: Sequence[int], layers: int, encoder_prunes_prompt: bool = False
) -> list[int]:
    """Return the number of visual tokens in each decoder layer under a recipe, without running a model.

    Args:
        recipe: the recipe.
        images: the number of visual tokens of each image of the prompt.
        layers: the number of decoder layers.
        encoder_prunes_prompt: whether tokens removed inside the vision encoder are removed from the prompt, as
            `Encoder.prunes_prompt` says.

    Raises:
        RefusedError: if the number of tokens that a stage keeps depends on the image.
    """
    stages = {stage.at.block: stage for stage in recipe.stages if stage.at.part == "decoder"}
    groups, counts = list(images), []
    for stage in recipe.stages:
        if stage.at.part == "pixel":
            groups = kept_of_groups(recipe, stage, groups)
        elif stage.at.part == "encoder" and encoder_prunes_prompt:
            groups = [count(stage.keep, n) for n in groups]
    for layer in range(layers):
        if layer in stages:
            groups = kept_of_groups(recipe, stages[layer], groups)
        counts.append(sum(groups))
    return counts


def kept_of_groups(recipe: Recipe, stage: Stage, groups: Sequence[int]) -> list[int]:
    """Return how many tokens a stage keeps of images with so many tokens each; of all together, if it counts so.

    Raises:
        RefusedError: if that depends on the image.
    """
    # Pictures of one prompt that share a mean keep a known number together; of each, only one alone is known.
    known = stage.over == "sample" and (len(groups) == 1 or stage is recipe.stages[-1])
    open_count = stage.keep.auto or (stage.keep.mean and not known)
    if open_count or stage.per not in ("image", "sample"):
        said = f"keep: {stage.keep}" if open_count else f"per: {stage.per}"
        raise RefusedError(f"'{recipe.name}' has {said} at {stage.at}: what stays depends on the picture")
    groups = [sum(groups)] if stage.per == "sample" else groups
    return [count(stage.keep.each, n) if n else 0 for n in groups]


def pruned_prefill_flops(
    recipe: Recipe, layers: Sequence[LayerCost], images: Sequence[int], text: int, encoder_prunes_prompt: bool = False
) -> int:
    """Return the FLOPs of a prefill under a recipe, counted as `prefill_flops` does.

    Args:
        recipe: the recipe.
        layers: the cost of each decoder layer.
        images: the number of visual tokens of each image of the prompt.
        text: the number of text tokens.
        encoder_prunes_prompt: see `visual_per_layer`.
    """
    return prefill_flops(
        layers, [text + n for n in visual_per_layer(recipe, images, len(layers), encoder_prunes_prompt)]
    )
