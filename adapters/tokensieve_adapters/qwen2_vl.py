"""Qwen2-VL: everything as in `_mrope.py`."""

from __future__ import annotations

from torch import nn

from tokensieve_adapters import _tiny
from tokensieve_adapters._mrope import VISION_TOKENS, MropeAdapter, PackedMropeTower


class Qwen2VLAdapter(MropeAdapter):
    """Qwen2VLForConditionalGeneration."""

    name = "qwen2_vl"
    model_types = ("qwen2_vl",)
    packed_tower_type = PackedMropeTower

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with a few tokens an image."""
        from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

        rope = {"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 10000.0}
        config = Qwen2VLConfig(
            text_config=_tiny.text(rope_parameters=rope),
            vision_config={
                "depth": 2,
                "embed_dim": 32,
                "hidden_size": 48,
                "num_heads": 4,
                "mlp_ratio": 2,
                "patch_size": 4,
            },
            **VISION_TOKENS,
        )
        model: nn.Module = Qwen2VLForConditionalGeneration(config).eval()
        return model
