"""Everything that `prune` could leave behind on a model."""

from __future__ import annotations

from typing import Any

from torch import nn

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def footprint(model: nn.Module) -> dict[str, Any]:
    """Return what identifies hooks, attributes, configs, weights and registered attention functions.

    Taps of other models are left out: one whose model is dropped goes whenever Python collects it.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

    from tokensieve.engine.attention_tap import is_tap_of

    modules = {}
    for name, module in model.named_modules():
        own = vars(module)
        modules[name] = {
            "class": type(module),
            # transformers stores the length of the last static cache.
            "attributes": sorted(set(own) - {"_previous_max_cache_length"}),
            "hooks": {kind: [(key, id(hook)) for key, hook in own[kind].items()] for kind in _HOOKS},
            "forward": id(getattr(module.forward, "__func__", module.forward)),
            "config": id(own["config"]) if "config" in own else None,
            "implementation": getattr(own.get("config"), "_attn_implementation", None),
            "training": module.training,
        }
    weights = {name: (id(weight), weight._version, weight.grad is None) for name, weight in model.named_parameters()}
    registry = {
        "shared": [
            (name, id(function))
            for name, function in sorted(AttentionInterface._global_mapping.items())
            if is_tap_of(model, name) is not False
        ],
        "own": sorted(ALL_ATTENTION_FUNCTIONS._local_mapping),
    }
    generate = getattr(model, "generate", None)
    config = getattr(model, "config", None)
    generation = getattr(model, "generation_config", None)
    return {
        "modules": modules,
        "weights": weights,
        "registry": registry,
        "generate": id(getattr(generate, "__func__", generate)),
        "config": str(config.to_dict()) if config is not None else None,
        "generation": str(generation.to_dict()) if generation is not None else None,
    }
