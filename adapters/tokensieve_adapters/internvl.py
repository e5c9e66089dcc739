"""InternVL: square tiles, side by side in the prompt, each joined two by two by pixel shuffle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tokensieve.models.adapter import Adapter
from tokensieve.models.layouts import raster
from tokensieve_adapters import _tiny
from tokensieve_adapters._tower import SquaresDecoder


class InternVLDecoder(SquaresDecoder):
    """A grid a tile."""

    tiled = True
    vision_path = "vision_tower.encoder.layer"
    vision_types = frozenset({"internvl_vision"})
    vision_attention_name = "attention"

    @property
    def vision_prefix(self) -> int:
        """One class token."""
        return 1

    @property
    def factor(self) -> int:
        """How many patches a token has on each side."""
        ratio: float = self.config.downsample_ratio
        return round(1 / ratio)

    def layout(self, modality: str, output: Any, request: Mapping[str, Any]) -> list[Tensor]:
        """Lay each tile out row by row."""
        return [raster(side := math.isqrt(tile.shape[-2]), side) for tile in output.pooler_output]


class InternVLAdapter(Adapter):
    """InternVLForConditionalGeneration."""

    name = "internvl"
    model_types = ("internvl",)
    decoder_type = InternVLDecoder

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model of 16 tokens a tile."""
        from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig, Qwen2Config

        config = InternVLConfig(
            vision_config=InternVLVisionConfig(**_tiny.vision(image_size=[64, 64], patch_size=[8, 8])),
            text_config=Qwen2Config(**_tiny.text()),
            image_token_id=_tiny.IMAGE,
        )
        model: nn.Module = InternVLForConditionalGeneration(config).eval()
        return model
