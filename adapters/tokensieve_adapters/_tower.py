"""Vision towers of CLIP's and SigLIP's build: where their layers are, and which of them is selected."""

from __future__ import annotations

from typing import Any

from torch import nn

KNOWN = ("clip_vision_model", "siglip_vision_model")


def selected_attention(tower: nn.Module, config: Any) -> nn.Module | None:
    """Give the attention module of the tower's layer whose output the projector takes; none of other towers.

    Args:
        tower: with `encoder.layers`.
        config: of the whole model; `vision_feature_layer` counts the embeddings as 0, -1 is the last
            layer; of several, the deepest counts, and without it the last layer is taken.
    """
    if config.vision_config.model_type not in KNOWN:
        return None
    layers = tower.get_submodule("encoder.layers")
    depth = len(list(layers.children()))
    chosen = getattr(config, "vision_feature_layer", None)
    places = [-1 if chosen is None else chosen] if not isinstance(chosen, (list, tuple)) else list(chosen)
    deepest = max(depth + place if place < 0 else place - 1 for place in places)
    return layers.get_submodule(f"{deepest}.self_attn")


def class_tokens(config: Any) -> int:
    """Give how many class tokens stand before the patches: CLIP has one, SigLIP none."""
    return int(config.vision_config.model_type == "clip_vision_model")
