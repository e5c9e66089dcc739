"""Qwen3.5, dense and mixture of experts: most layers of its language model have linear attention."""

from __future__ import annotations

from typing import Any

from torch import nn

from tokensieve_adapters import _tiny
from tokensieve_adapters._mrope import VISION_TOKENS, InterpolatedTower, MropeAdapter


class Qwen35Adapter(MropeAdapter):
    """Qwen3_5ForConditionalGeneration."""

    name = "qwen3_5"
    model_types = ("qwen3_5",)
    packed_tower_type = InterpolatedTower
    text_between_frames = True

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with a few tokens an image, and full attention in two layers."""
        from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

        model: nn.Module = Qwen3_5ForConditionalGeneration(Qwen3_5Config(**_tiny_settings())).eval()
        return model


class Qwen35MoeAdapter(Qwen35Adapter):
    """Qwen3_5MoeForConditionalGeneration."""

    name = "qwen3_5_moe"
    model_types = ("qwen3_5_moe",)

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with two of four experts and a shared one for each token in a layer."""
        from transformers import Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration

        experts = {"num_experts": 4, "num_experts_per_tok": 2}
        experts |= {"moe_intermediate_size": 24, "shared_expert_intermediate_size": 24}
        model: nn.Module = Qwen3_5MoeForConditionalGeneration(Qwen3_5MoeConfig(**_tiny_settings(**experts))).eval()
        return model


def _tiny_settings(**text: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 1], "mrope_interleaved": True, "rope_theta": 10000.0}
    linear = {"key_head_dim": 8, "value_head_dim": 8, "num_key_heads": 2, "num_value_heads": 4, "conv_kernel_dim": 4}
    return {
        "text_config": _tiny.text(
            rope_parameters=rope | {"partial_rotary_factor": 0.5},
            head_dim=12,
            layer_types=["linear_attention", "full_attention"] * 2,
            **{f"linear_{name}": value for name, value in linear.items()},
            **text,
        ),
        "vision_config": {
            "depth": 2,
            "hidden_size": 32,
            "out_hidden_size": 48,
            "intermediate_size": 64,
            "num_heads": 4,
            "patch_size": 4,
            "num_position_embeddings": 64,
        },
        **VISION_TOKENS,
    }
