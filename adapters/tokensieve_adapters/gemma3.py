"""Gemma 3: one square pooled grid for each image, with bidirectional attention; sliding windows in some layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tokensieve.models.adapter import Adapter
from tokensieve.models.layouts import raster, require_size
from tokensieve.models.text_tower import TextTower
from tokensieve_adapters import _tiny
from tokensieve_adapters._text_tower import load_contrastive_text_tower
from tokensieve_adapters._tower import MergedPatchesDecoder, TowerEncoder


class Gemma3Decoder(MergedPatchesDecoder):
    """One grid for each image."""

    @property
    def merge_size(self) -> int:
        """The number of patches on each side of a token."""
        vision = self.config.vision_config
        return int(vision.image_size // vision.patch_size // math.isqrt(self.config.mm_tokens_per_image))

    @property
    def tokens_per_image(self) -> int:
        """What the config says; a crop of an image counts as an image of its own."""
        return int(self.config.mm_tokens_per_image)

    def layout(self, modality: str, output: Any, request: Mapping[str, Any]) -> list[Tensor]:
        """Return the layout: a grid for each image."""
        require_size(request.get("pixel_values"), self.config.vision_config.image_size)
        side = math.isqrt(self.config.mm_tokens_per_image)
        return [raster(side, side) for _ in output.pooler_output]

    def load_text_tower(self, query_encoder: object) -> TextTower:
        """Load the text tower of the SigLIP model that this vision tower is from."""
        return load_contrastive_text_tower(
            query_encoder, self.config.vision_config, self.base_model.get_submodule(str(self.vision_layers_path))
        )


class Gemma3Adapter(Adapter):
    """Gemma3ForConditionalGeneration."""

    name = "gemma3"
    model_types = ("gemma3",)
    decoder_type = Gemma3Decoder
    encoder_type = TowerEncoder

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with 16 tokens an image."""
        from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig, SiglipVisionConfig

        kinds = ["sliding_attention", "full_attention"] * 2
        text = _tiny.text(head_dim=12, query_pre_attn_scalar=12, sliding_window=24, layer_types=kinds)
        config = Gemma3Config(
            vision_config=SiglipVisionConfig(**_tiny.vision(image_size=64, vision_use_head=False)),
            text_config=Gemma3TextConfig(**text),
            image_token_index=_tiny.IMAGE,
            boi_token_index=61,
            eoi_token_index=60,
            mm_tokens_per_image=16,
        )
        model: nn.Module = Gemma3ForConditionalGeneration(config).eval()
        return model

    @classmethod
    def aligned_inputs(cls, model: nn.Module, ids: Tensor, num_generated: int = 0) -> dict[str, Tensor]:
        """Return `token_type_ids`: 0 for text, 1 for images."""
        return {"token_type_ids": (ids == _tiny.IMAGE).int()}
