"""PaliGemma 1 and 2: one square grid for each image, and bidirectional attention over the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tokensieve.models.adapter import Adapter
from tokensieve.models.layouts import raster, require_size
from tokensieve_adapters import _tiny
from tokensieve_adapters._tower import PatchTokenEncoder, TowerDecoder


class PaliGemmaDecoder(TowerDecoder):
    """One square grid for each image. Position ids begin at 1."""

    @property
    def tokens_per_image(self) -> int:
        """The number of patches."""
        vision = self.config.vision_config
        return int(vision.image_size // vision.patch_size) ** 2

    def layout(self, modality: str, output: Any, request: Mapping[str, Any]) -> list[Tensor]:
        """Return the layout: a grid for each image."""
        vision = self.config.vision_config
        require_size(request.get("pixel_values"), vision.image_size)
        side = vision.image_size // vision.patch_size
        return [raster(side, side) for _ in range(output.pooler_output.flatten(0, 1).shape[0] // side**2)]

    def position_ids(self, request: Mapping[str, Any], mask: Tensor, start: int, steps: int) -> Tensor:
        """Return position ids that begin at 1."""
        return super().position_ids(request, mask, start, steps) + 1


class PaliGemmaAdapter(Adapter):
    """PaliGemmaForConditionalGeneration with a Gemma language model."""

    name = "paligemma"
    model_types = ("paligemma",)
    decoder_type = PaliGemmaDecoder
    encoder_type = PatchTokenEncoder
    text_model_type = "gemma"

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        """Return whether the model type and that of the language model fit."""
        config: Any = model.config if super().matches(model) else None
        return config is not None and config.text_config.model_type == cls.text_model_type

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with 16 tokens an image."""
        from transformers import GemmaConfig, PaliGemmaConfig, PaliGemmaForConditionalGeneration, SiglipVisionConfig

        config = PaliGemmaConfig(
            vision_config=SiglipVisionConfig(**_tiny.vision(vision_use_head=False)),
            text_config=GemmaConfig(**_tiny.text(head_dim=12)),
            image_token_index=_tiny.IMAGE,
            projection_dim=48,
            hidden_size=48,
        )
        model: nn.Module = PaliGemmaForConditionalGeneration(config).eval()
        return model

    @classmethod
    def aligned_inputs(cls, model: nn.Module, ids: Tensor, num_generated: int = 0) -> dict[str, Tensor]:
        """Return `token_type_ids`: 0 for the prompt, which is the prefix, and 1 for generated tokens."""
        return {"token_type_ids": (torch.arange(ids.shape[1]) >= ids.shape[1] - num_generated).long().expand_as(ids)}


class PaliGemma2Adapter(PaliGemmaAdapter):
    """PaliGemmaForConditionalGeneration with a Gemma 2 language model, whose layers alternate with windows."""

    name = "paligemma2"
    text_model_type = "gemma2"

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with 16 tokens an image, and windows longer than its prompts."""
        from transformers import Gemma2Config, PaliGemmaConfig, PaliGemmaForConditionalGeneration, SiglipVisionConfig

        config = PaliGemmaConfig(
            vision_config=SiglipVisionConfig(**_tiny.vision(vision_use_head=False)),
            text_config=Gemma2Config(**_tiny.text(head_dim=12, query_pre_attn_scalar=12, sliding_window=24)),
            image_token_index=_tiny.IMAGE,
            projection_dim=48,
            hidden_size=48,
        )
        model: nn.Module = PaliGemmaForConditionalGeneration(config).eval()
        return model
