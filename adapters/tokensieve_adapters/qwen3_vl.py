"""Qwen3-VL, dense and mixture of experts: vision features are also added after the first text layers (deepstack)."""

from __future__ import annotations

from typing import Any

from torch import nn

from tokensieve_adapters import _tiny
from tokensieve_adapters._mrope import VISION_TOKENS, InterpolatedTower, MropeAdapter, MropeDecoder


class Qwen3VLDecoder(MropeDecoder):
    """Inside the language model, tokens can be removed after the last layer to which vision features are added."""

    @property
    def first_prunable_layer(self) -> int:
        """The first layer after deepstack."""
        return max(1, len(self.config.vision_config.deepstack_visual_indexes))


class Qwen3VLAdapter(MropeAdapter):
    """Qwen3VLForConditionalGeneration."""

    name = "qwen3_vl"
    model_types = ("qwen3_vl",)
    decoder_type = Qwen3VLDecoder
    packed_tower_type = InterpolatedTower
    text_between_frames = True

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with a few tokens an image, and deepstack features of two vision layers."""
        from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

        model: nn.Module = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**tiny_settings())).eval()
        return model


class Qwen3VLMoeAdapter(Qwen3VLAdapter):
    """Qwen3VLMoeForConditionalGeneration."""

    name = "qwen3_vl_moe"
    model_types = ("qwen3_vl_moe",)

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with two of four experts for each token in a layer."""
        from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

        experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
        model: nn.Module = Qwen3VLMoeForConditionalGeneration(Qwen3VLMoeConfig(**tiny_settings(**experts))).eval()
        return model


def tiny_settings(**text: Any) -> dict[str, Any]:
    """Return the settings of a small model, with more ones for its language model."""
    rope = {"rope_type": "default", "mrope_section": [2, 2, 2], "mrope_interleaved": True, "rope_theta": 10000.0}
    return {
        "text_config": _tiny.text(rope_parameters=rope, head_dim=12, **text),
        "vision_config": {
            "depth": 3,
            "hidden_size": 32,
            "out_hidden_size": 48,
            "intermediate_size": 64,
            "num_heads": 4,
            "patch_size": 4,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        **VISION_TOKENS,
    }
