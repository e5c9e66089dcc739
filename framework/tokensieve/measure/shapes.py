"""Models with random weights and the shape of a released model, as deep and wide as memory allows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from tokensieve.cost.geometry import Geometry
from tokensieve.errors import RefusedError

SHARE = 0.6
"""The part of the free memory that weights may take."""
SHRINKS = (1, 2, 4, 8, 16)
_INDEXES = ("deepstack_visual_indexes", "fullatt_block_indexes")


def resized(geometry: Geometry, layers: int | None = None, shrink: int = 1) -> Geometry:
    """Return a geometry with fewer layers and narrower ones; what pictures look like, and their tokens, stay.

    Args:
        geometry: of a released model.
        layers: the most layers that the language model and the vision tower have.
        shrink: by what widths and numbers of heads are divided; heads stay as wide as they are.
    """
    config = dict(geometry.config)
    text = _shallower(_narrower(config["text_config"], shrink), layers)
    vision = _shallower(_narrower(config["vision_config"], shrink), layers)
    if "out_hidden_size" in vision:
        vision["out_hidden_size"] = text["hidden_size"]
    return replace(geometry, config={**config, "text_config": text, "vision_config": vision})


def fitting(geometry: Geometry, dtype: torch.dtype, free: int | None, least: int = 2) -> Geometry:
    """Return a geometry whose weights fit, made shallower first and narrower then.

    Args:
        geometry: the wanted one.
        dtype: of the weights.
        free: bytes that are free, None if that is not known.
        least: how many layers are needed.

    Raises:
        RefusedError: if not even the narrowest fits.
    """
    depth = int(geometry.config["text_config"]["num_hidden_layers"])
    least = min(depth, least)
    for shrink in SHRINKS:
        whole, shallow = (num_bytes(resized(geometry, n, shrink), dtype) for n in (depth, least))
        if free is None or whole <= SHARE * free:
            return resized(geometry, depth, shrink) if shrink > 1 else geometry
        if shallow <= SHARE * free:
            layer = (whole - shallow) / max(1, depth - least)
            fits = least + math.floor((SHARE * free - shallow) / layer)
            return resized(geometry, max(least, min(depth, fits)), shrink)
    raise RefusedError(f"a model of the shape of {geometry.name} does not fit into the free memory, even at 1/16")


def difference(wanted: Geometry, made: Geometry) -> str:
    """Return what was scaled down, as text; empty if nothing was."""
    said = []
    for name, part in (("text_config", "language model"), ("vision_config", "vision tower")):
        before, after = wanted.config[name], made.config[name]
        for keys, what in ((("num_hidden_layers", "depth"), "layers"), (("hidden_size",), "wide")):
            key = next(one for one in keys if one in before)
            if before[key] != after[key]:
                said.append(f"{part} {after[key]} {what} of {before[key]}")
    return ", ".join(said)


def num_bytes(geometry: Geometry, dtype: torch.dtype) -> int:
    """Return the bytes of a geometry's weights."""
    return sum(weight.numel() for weight in geometry.model().parameters()) * dtype.itemsize


def random_model(geometry: Geometry, dtype: torch.dtype, device: torch.device, attention: str) -> nn.Module:
    """Return a model with random weights, made on its device."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    settings = dict(geometry.config)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation=attention)
    made: nn.Module = model.to(device).eval()
    return made


def _shallower(config: dict[str, Any], layers: int | None) -> dict[str, Any]:
    """Return a part's config with at most `layers` layers."""
    key = "depth" if "depth" in config else "num_hidden_layers"
    if layers is None or layers >= config[key]:
        return config
    # What is read off some layers is read off as many, as deep as there are.
    indexes = {name: _compressed(config[name], config[key], layers) for name in _INDEXES if name in config}
    return {**config, **indexes, key: layers}


def _compressed(indexes: list[int], depth: int, layers: int) -> list[int]:
    return sorted({max(0, (one + 1) * layers // depth - 1) for one in indexes})


def _narrower(config: dict[str, Any], shrink: int) -> dict[str, Any]:
    """Return a part's config with `1/shrink` of its heads, at least one, and of its width."""
    if shrink == 1:
        return config
    key = "num_heads" if "num_heads" in config else "num_attention_heads"
    heads = max(1, config[key] // shrink)
    width = config["hidden_size"] // config[key] * heads
    new = {**config, key: heads, "hidden_size": width, "intermediate_size": config["intermediate_size"] // shrink}
    if "num_key_value_heads" in config:
        most = max(1, config["num_key_value_heads"] // shrink)
        new["num_key_value_heads"] = next(n for n in range(most, 0, -1) if heads % n == 0)
    return new
