"""Qwen2.5-VL."""

from __future__ import annotations

from torch import nn

from tokensieve_adapters import _tiny
from tokensieve_adapters._mrope import VISION_TOKENS, MropeAdapter


class Qwen25VLAdapter(MropeAdapter):
    """Qwen2_5_VLForConditionalGeneration."""

    name = "qwen2_5_vl"
    model_types = ("qwen2_5_vl",)

    @classmethod
    def tiny(cls) -> nn.Module:
        """Give a model of a few squares of patches a picture, with windows in its tower."""
        from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

        rope = {"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 10000.0}
        config = Qwen2_5_VLConfig(
            text_config=_tiny.text(rope_parameters=rope),
            vision_config={
                "depth": 2,
                "hidden_size": 32,
                "out_hidden_size": 48,
                "intermediate_size": 64,
                "num_heads": 4,
                "patch_size": 4,
                "window_size": 16,
                "fullatt_block_indexes": [1],
            },
            **VISION_TOKENS,
        )
        model: nn.Module = Qwen2_5_VLForConditionalGeneration(config).eval()
        return model
