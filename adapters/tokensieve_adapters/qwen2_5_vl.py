"""Qwen2.5-VL: a vision tower with windowed attention in most layers."""

from __future__ import annotations

from torch import nn

from tokensieve_adapters import _tiny
from tokensieve_adapters._mrope import VISION_TOKENS, MropeAdapter
from tokensieve_adapters._qwen_vl import WINDOWS, WindowedDecoder, WindowedTower


class Qwen25VLAdapter(MropeAdapter):
    """Qwen2_5_VLForConditionalGeneration."""

    name = "qwen2_5_vl"
    model_types = ("qwen2_5_vl",)
    decoder_type = WindowedDecoder
    packed_tower_type = WindowedTower

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with a few tokens an image, and windows in its vision tower."""
        from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

        rope = {"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 10000.0}
        config = Qwen2_5_VLConfig(
            text_config=_tiny.text(rope_parameters=rope),
            vision_config=WINDOWS,
            **VISION_TOKENS,
        )
        model: nn.Module = Qwen2_5_VLForConditionalGeneration(config).eval()
        return model
