"""InternVL: square tiles, adjacent in the prompt; a token is 2 x 2 patches, by pixel shuffle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tokensieve.models.adapter import Adapter
from tokensieve.models.layouts import squares
from tokensieve_adapters import _tiny
from tokensieve_adapters._tower import MergedPatchesDecoder


class InternVLDecoder(MergedPatchesDecoder):
    """One grid for each tile; adjacent tiles are one image."""

    joins_adjacent_tiles = True
    vision_layers_path = "vision_tower.encoder.layer"
    vision_model_types = frozenset({"internvl_vision"})
    vision_attention_name = "attention"

    @property
    def num_vision_prefix_tokens(self) -> int:
        """1: a class token."""
        return 1

    @property
    def merge_size(self) -> int:
        """The number of patches on each side of a token."""
        ratio: float = self.config.downsample_ratio
        return round(1 / ratio)

    def layout(self, modality: str, output: Any, request: Mapping[str, Any]) -> list[Tensor]:
        """Return the layout: a grid for each tile."""
        return squares([tile.shape[-2] for tile in output.pooler_output], request.get("pixel_values"))


class InternVLAdapter(Adapter):
    """InternVLForConditionalGeneration."""

    name = "internvl"
    model_types = ("internvl",)
    decoder_type = InternVLDecoder

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with 16 tokens a tile."""
        from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig, Qwen2Config

        config = InternVLConfig(
            vision_config=InternVLVisionConfig(**_tiny.vision(image_size=[64, 64], patch_size=[8, 8])),
            text_config=Qwen2Config(**_tiny.text()),
            image_token_id=_tiny.IMAGE,
        )
        model: nn.Module = InternVLForConditionalGeneration(config).eval()
        return model
