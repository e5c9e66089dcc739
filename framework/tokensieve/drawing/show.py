"""`show`: which tokens recipes keep of a picture, and which operand chose what."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tokensieve.checkpoints.loaded_model import LoadedModel
from tokensieve.composers.expression import Expression
from tokensieve.drawing import QUESTION
from tokensieve.drawing.operands import StageView, watch
from tokensieve.drawing.picture import Sheet, bands_of, sheet, views_of
from tokensieve.errors import RefusedError
from tokensieve.models.adapter import Adapter
from tokensieve.models.picture_files import as_rgb, read_picture
from tokensieve.plugins.registry import Registry, default_registry
from tokensieve.recipes.meant import GivenRecipe, meant
from tokensieve.recipes.recipe import Recipe
from tokensieve.sites import Site

MAX_QUESTION_CHARACTERS = 300
"""How much of a question fits beside a photo."""


def show(
    model: Any,
    recipes: GivenRecipe | Sequence[GivenRecipe],
    image: Image.Image | str | Path,
    *,
    processor: Any,
    prompt: str = QUESTION,
    keep: object = None,
    query_encoder: Any = None,
    registry: Registry | None = None,
) -> Sheet:
    """Draw what recipes keep of a picture, and which operand chose what: the twin of the command `tokensieve show`.

    Args:
        model: a model that an adapter is registered for.
        recipes: one or several; each a recipe, the name of a shipped one, a path to YAML, or a formula.
        image: the picture, or its file.
        processor: the model's processor.
        prompt: the question about it.
        keep: the budget; needed for formulas, and an override otherwise.
        query_encoder: as for `prune`.
        registry: where names are looked up; everything installed by default.

    Returns:
        The drawing, which a notebook shows; `.image` and `.save(path)`.

    Raises:
        RefusedError: if a recipe cannot be drawn on this model; and other kinds of TokensieveError for recipes.
    """
    registry = registry or default_registry()
    several = [recipes] if isinstance(recipes, (Recipe, Expression, str, Path)) else list(recipes)
    adapter = registry.adapter_for(model)
    ready = LoadedModel(adapter.model, processor, adapter)
    if isinstance(image, Image.Image):
        picture, name = as_rgb(image), "the picture"
    else:
        picture, name = read_picture(Path(image)), Path(image).name
    wanted = [meant(one, keep, registry) for one in several]
    return draw(ready, wanted, picture, name, prompt, query_encoder, registry, None)


def require_drawable(recipes: Sequence[Recipe], adapter: Adapter) -> None:
    """Raise if a recipe prunes inside an encoder whose patches are not the tokens of the prompt.

    Raises:
        RefusedError: if there is such a recipe.
    """
    encoder = adapter.encoder
    for recipe in recipes:
        inside = [stage.at for stage in recipe.stages if stage.at.part == "encoder"]
        if inside and not (encoder is not None and encoder.prunes_prompt):
            raise RefusedError(
                f"'{recipe.name}' cuts at {inside[0]}; pictures show what enters the language model, and here the "
                "patches of the encoder are not its tokens, so show recipes of decoder sites"
            )


def last_of_ranges(recipe: Recipe, stages: Sequence[StageView]) -> list[StageView]:
    """Return the last stage of each range of sites, such as `decoder.2..5`: a panel for every layer shows little."""
    sizes = [len(Site.each(at)) for at, _ in recipe.ranges()]
    return [stages[end - 1] for end in itertools.accumulate(sizes)]


def draw(
    ready: LoadedModel,
    recipes: Sequence[Recipe],
    image: Image.Image,
    name: str,
    prompt: str,
    query_encoder: Any,
    registry: Registry,
    description: str | None,
) -> Sheet:
    """Run every recipe on a picture, and draw which tokens it keeps.

    Args:
        ready: the loaded model.
        recipes: what to run.
        image: the picture, RGB.
        name: of the picture, for the title.
        prompt: the question.
        query_encoder: the folder of a two-tower model, or none.
        registry: where names are looked up.
        description: of an example checkpoint; none for a user's model.

    Raises:
        RefusedError: if a recipe cannot be drawn on this model.
    """
    inputs = ready.inputs(image, prompt)
    require_drawable(recipes, ready.adapter)
    stages = [
        one
        for recipe in recipes
        for one in last_of_ranges(recipe, watch(ready, recipe, inputs, query_encoder, registry)[1])
    ]
    return draw_stages(ready, inputs, stages, image, name, prompt, description)


def draw_stages(
    ready: LoadedModel,
    inputs: Mapping[str, Any],
    stages: Sequence[StageView],
    image: Image.Image,
    name: str,
    prompt: str,
    description: str | None,
) -> Sheet:
    """Draw which tokens of a picture stages kept.

    Args:
        ready: the loaded model.
        inputs: of the question about the picture.
        stages: what the stages kept.
        image: the picture, RGB.
        name: of the picture, for the title.
        prompt: the question.
        description: of an example checkpoint; none for a user's model.
    """
    grid = token_grid(ready, inputs)
    notes = [
        f"Question: {prompt if len(prompt) <= MAX_QUESTION_CHARACTERS else prompt[:MAX_QUESTION_CHARACTERS] + '...'}",
        f"Model: {description or type(ready.model).__name__}.",
        f"The photo is cropped and resized as the model sees it: {len(grid)} visual tokens. Lit patches are "
        "tokens that stay, the others are dimmed. A frame's colour says whose own best the token was among.",
    ]
    return sheet(
        views_of(image, processed_images(ready, inputs), grid), bands_of(stages), f"What is kept of {name}", notes
    )


@torch.no_grad()
def token_grid(ready: LoadedModel, inputs: Mapping[str, Any]) -> Tensor:
    """Return the part, tile, frame, row and column of each token of a prompt's one picture, int64 `[tokens, 5]`.

    In families whose tiles are of equal rank, each tile is a part.

    Raises:
        RefusedError: if no language model carries visual tokens.
    """
    decoder = ready.adapter.decoder
    if decoder is None:
        raise RefusedError(f"{type(ready.model).__name__} has no language model that carries visual tokens")
    outputs = decoder.encode_visual_inputs(inputs)
    layouts = [layout.cpu() for name, output in outputs.items() for layout in decoder.layout(name, output, inputs)]
    numbered = (torch.nn.functional.pad(layout, (1, 0), value=part) for part, layout in enumerate(layouts))
    return torch.cat(list(numbered))


def processed_images(ready: LoadedModel, inputs: Mapping[str, Any]) -> list[Image.Image]:
    """Return the pictures that the processor made, from its pixel values; none if it flattens them to patches."""
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
