"""Qwen3-VL, dense and mixture of experts: vision features are also added after the first text layers (deepstack)."""

from __future__ import annotations

from torch import nn

from tokensieve_adapters._mrope import InterpolatedTower, MropeAdapter
from tokensieve_adapters._qwen_vl import DeepstackDecoder, deepstack_settings


class Qwen3VLAdapter(MropeAdapter):
    """Qwen3VLForConditionalGeneration."""

    name = "qwen3_vl"
    model_types = ("qwen3_vl",)
    decoder_type = DeepstackDecoder
    packed_tower_type = InterpolatedTower
    text_between_frames = True

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with a few tokens an image, and deepstack features of two vision layers."""
        from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

        model: nn.Module = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**deepstack_settings())).eval()
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
        model: nn.Module = Qwen3VLMoeForConditionalGeneration(Qwen3VLMoeConfig(**deepstack_settings(**experts))).eval()
        return model
