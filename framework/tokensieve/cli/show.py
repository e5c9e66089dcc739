"""Pictures of what recipes keep."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tokensieve.checkpoints.ready import LoadedModel
from tokensieve.cli.operands import StageView, watch
from tokensieve.cli.picture import Sheet, bands_of, sheet, views_of
from tokensieve.errors import RefusedError
from tokensieve.models.adapter import Adapter
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe
from tokensieve.sites import Site

LONGEST = 300
"""How much of a question fits beside a photo."""


def require_places(recipes: Sequence[Recipe], adapter: Adapter) -> None:
    """Refuse recipes that cut where tokens have no place in the picture of the prompt's tokens.

    Raises:
        RefusedError: if there is one.
    """
    encoder = adapter.encoder
    for recipe in recipes:
        inside = [stage.at for stage in recipe.stages if stage.at.part == "encoder"]
        if inside and not (encoder is not None and encoder.prunes_prompt):
            raise RefusedError(
                f"'{recipe.name}' cuts at {inside[0]}; pictures show what enters the language model, and here the "
                "patches of the encoder are not its tokens, so show recipes of decoder sites"
            )


def ends(recipe: Recipe, seen: Sequence[StageView]) -> list[StageView]:
    """Return what was seen at the end of each range of sites alike: a panel for every layer would show little."""
    sizes = [len(Site.each(at)) for at, _ in recipe.ranges()]
    return [seen[end - 1] for end in itertools.accumulate(sizes)]


def names(images: Sequence[Path]) -> list[str]:
    """Return a file name for the picture of each image; those that would clash are numbered."""
    given: list[str] = []
    for image in images:
        name, number = f"{image.stem}.kept.png", 1
        while name in given:
            number += 1
            name = f"{image.stem}.{number}.kept.png"
        given.append(name)
    return given


def draw(
    ready: LoadedModel,
    recipes: Sequence[Recipe],
    image: Image.Image,
    name: str,
    prompt: str,
    query_encoder: Path | None,
    registry: Registry,
    description: str | None,
) -> Sheet:
    """Run every recipe on a picture, and draw what it keeps."""
    inputs = ready.inputs(image, prompt)
    require_places(recipes, ready.adapter)
    seen = [one for recipe in recipes for one in ends(recipe, watch(ready, recipe, inputs, query_encoder, registry)[1])]
    return picture(ready, inputs, seen, image, name, prompt, description)


def picture(
    ready: LoadedModel,
    inputs: Mapping[str, Any],
    seen: Sequence[StageView],
    image: Image.Image,
    name: str,
    prompt: str,
    description: str | None,
) -> Sheet:
    """Draw what stages kept of a picture.

    Args:
        ready: the model.
        inputs: of the question about the picture.
        seen: what the stages kept.
        image: the picture.
        name: what it is called.
        prompt: the question.
        description: of an example checkpoint; none for a user's model.
    """
    grid = grid_of(ready, inputs)
    notes = [
        f"Question: {prompt if len(prompt) <= LONGEST else prompt[:LONGEST] + '...'}",
        f"Model: {description or type(ready.model).__name__}.",
        f"The photo is cropped and resized as the model sees it: {len(grid)} visual tokens. Lit patches are "
        "tokens that stay, the others are dimmed. A frame's colour says whose own best the token was among.",
    ]
    return sheet(views_of(image, crops(ready, inputs), grid), bands_of(seen), f"What is kept of {name}", notes)


@torch.no_grad()
def grid_of(ready: LoadedModel, inputs: Mapping[str, Any]) -> Tensor:
    """Return where the tokens of a prompt's one picture are, int64 `[tokens, 5]`: part, tile, frame, row, column.

    A family whose tiles are of equal rank hands over each as a part.

    Raises:
        RefusedError: if the model carries no visual tokens in a language model.
    """
    decoder = ready.adapter.decoder
    if decoder is None:
        raise RefusedError(f"{type(ready.model).__name__} has no language model that carries visual tokens")
    outputs = decoder.encode_visual_inputs(inputs)
    layouts = [layout.cpu() for name, output in outputs.items() for layout in decoder.layout(name, output, inputs)]
    numbered = (torch.nn.functional.pad(layout, (1, 0), value=part) for part, layout in enumerate(layouts))
    return torch.cat(list(numbered))


def crops(ready: LoadedModel, inputs: Mapping[str, Any]) -> list[Image.Image]:
    """Turn pixel values back into pictures; none where the processor flattens them to patches."""
    pixels = inputs.get("pixel_values")
    if not isinstance(pixels, Tensor) or pixels.ndim < 4 or pixels.shape[-3] != 3:
        return []
    settings = ready.processor.image_processor
    mean = _channels(getattr(settings, "image_mean", None), 0.0)
    std = _channels(getattr(settings, "image_std", None), 1.0)
    restored = pixels.reshape(-1, *pixels.shape[-3:]).cpu().float() * std + mean
    whole = (restored.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return [Image.fromarray(one.numpy()) for one in whole]


def _channels(values: Sequence[float] | None, default: float) -> Tensor:
    return torch.tensor(list(values) if values else [default] * 3).reshape(3, 1, 1)
