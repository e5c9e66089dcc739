"""What is measured: a checkpoint on this machine, or the shape of a released model with random weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tokensieve.checkpoints.devices import named_device
from tokensieve.checkpoints.loaded_model import quiet
from tokensieve.checkpoints.loading import checkpoint_named, load, load_adapter
from tokensieve.cost.geometry import Geometry
from tokensieve.errors import RefusedError, short_message
from tokensieve.measure.machine import free_memory
from tokensieve.measure.prompts import Prompts
from tokensieve.measure.shapes import difference, fitting, random_model, resized
from tokensieve.models.adapter import Adapter
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe

DTYPES = ("float32", "bfloat16", "float16")
SIDE = 672
"""Pixels on a side of the picture that a checkpoint's processor is given."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model that is ready to be measured.

    Attributes:
        title: what it is, and what of it was scaled down.
        prompts: makes requests for it.
    """

    title: str
    prompts: Prompts


@dataclass(frozen=True)
class Size:
    """How large a model of a geometry is made; what is None follows from the memory that is free.

    Attributes:
        layers: the most layers of its parts.
        shrink: by what widths and numbers of heads are divided.
    """

    layers: int | None = None
    shrink: int | None = None


def find_source(name: str, registry: Registry) -> Path | Geometry:
    """Return the folder of a checkpoint, or a geometry.

    Args:
        name: a folder, the name of a shipped checkpoint, or that of a geometry.
        registry: where names are looked up.

    Raises:
        RefusedError: if it is none of them.
    """
    if name in registry.geometries and name not in registry.checkpoints and not os.path.isdir(name):
        return Geometry.load(registry.geometries[name])
    return checkpoint_named(name, registry, registry.geometries)


def planned_adapter(source: Path | Geometry, registry: Registry, attention: str) -> Adapter:
    """Return the adapter of a model without weights, to see what it refuses before it is made.

    Raises:
        RefusedError: if there is no such attention implementation, or the folder holds no checkpoint.
    """
    with quiet():
        adapter = (
            registry.adapter_for(source.model()) if isinstance(source, Geometry) else load_adapter(source, registry)
        )
        set_attention(adapter.model, attention)
    return adapter


def open_subject(
    source: Path | Geometry,
    registry: Registry,
    recipes: Sequence[Recipe],
    *,
    dtype: str | None = None,
    attention: str = "sdpa",
    device: str | None = None,
    size: Size | None = None,
    side: int = SIDE,
) -> Subject:
    """Make a model, or load it.

    Args:
        source: a checkpoint's folder, or a geometry, which gets random weights.
        registry: where adapters are looked up.
        recipes: as deep as the deepest of them a model of a geometry is made, at least.
        dtype: of the weights; by default a checkpoint's own, and of a geometry bfloat16 on a GPU and float32 elsewhere.
        attention: the implementation of attention.
        device: where the model runs; by default CUDA if available.
        size: how large a model of a geometry is made.
        side: pixels on a side of the picture that a checkpoint's processor is given.

    Raises:
        RefusedError: if the model does not fit into the memory, or cannot be loaded.
    """
    place = named_device(device)
    if isinstance(source, Geometry):
        given = getattr(torch, dtype or ("bfloat16" if place.type == "cuda" else "float32"))
        made = _sized(source, given, place, recipes, size or Size())
        with quiet():
            model = random_model(made, given, place, attention)
            prompts = Prompts(registry.adapter_for(model), made.inputs())
        scaled = difference(source, made)
        said = f"; scaled down: {scaled}" if scaled else ""
        return Subject(f"{source.name}, {source.description}; random weights{said}", prompts)
    ready = load(source, registry, (), device, dtype or "auto")
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    with quiet():
        set_attention(ready.model, attention)
        shown = ready.inputs(Image.fromarray(noise), "What is it?")
        return Subject(source.name, Prompts(ready.adapter, _picture(ready.adapter, shown)))


def set_attention(model: Any, name: str) -> None:
    """Let a model compute attention by an implementation of transformers.

    Raises:
        RefusedError: if there is none of this name, or what it needs is not installed.
    """
    try:
        model.set_attn_implementation(name)
    # Each implementation has packages of its own, and reasons.
    except Exception as error:
        raise RefusedError(f"attention '{name}' cannot be used: {short_message(error)}") from None


def _sized(
    geometry: Geometry, dtype: torch.dtype, device: torch.device, recipes: Sequence[Recipe], size: Size
) -> Geometry:
    """Return a geometry as large as was asked for, or as fits."""
    if size.layers is not None or size.shrink is not None:
        return resized(geometry, size.layers, size.shrink or 1)
    blocks = [stage.at.block for recipe in recipes for stage in recipe.stages if stage.at.part == "decoder"]
    return fitting(geometry, dtype, free_memory(device), 2 + max(blocks, default=0))


def _picture(adapter: Adapter, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return those of a processor's outputs by which a picture is encoded."""
    decoder = adapter.decoder
    if decoder is None:
        raise RefusedError(f"{type(adapter.model).__name__} has no language model, so it takes no prompts")
    for modality in decoder.modalities:
        if modality.pixel_argument in inputs:
            taken = decoder.encoder_arguments(modality)
            return {name: inputs[name] for name in inputs if name in taken}
    raise RefusedError(f"the processor of this {type(adapter.model).__name__} makes no pictures of a picture")
