"""LLaVA-NeXT-Video: LLaVA-NeXT's tiles for images, pooled frames for videos."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from tokensieve.models.adapter import Adapter
from tokensieve.models.layouts import raster, require_size
from tokensieve_adapters import _tiny
from tokensieve_adapters._anyres import AnyresDecoder, random_anyres_images
from tokensieve_adapters._tower import TowerEncoder


class LlavaNextVideoDecoder(AnyresDecoder):
    """Images as tiles. Frames of a video are pooled, without newline tokens."""

    def layout(self, modality: str, output: Any, request: Mapping[str, Any]) -> list[Tensor]:
        """Return the layout: images by tiles, videos by frames."""
        if modality == "image":
            return super().layout(modality, output, request)
        vision = self.config.vision_config
        require_size(request.get("pixel_values_videos"), vision.image_size)
        side = vision.image_size // vision.patch_size // self.config.spatial_pool_stride
        return [raster(side, side, math.prod(video.shape[:-1]) // side**2) for video in output.pooler_output]


class LlavaNextVideoAdapter(Adapter):
    """LlavaNextVideoForConditionalGeneration."""

    name = "llava_next_video"
    model_types = ("llava_next_video",)
    decoder_type = LlavaNextVideoDecoder
    encoder_type = TowerEncoder

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with 16 patches a tile, up to five tiles, and 4 tokens a frame."""
        from transformers import (
            CLIPVisionConfig,
            LlamaConfig,
            LlavaNextVideoConfig,
            LlavaNextVideoForConditionalGeneration,
        )

        config = LlavaNextVideoConfig(
            vision_config=CLIPVisionConfig(**_tiny.vision()),
            text_config=LlamaConfig(**_tiny.text()),
            image_token_index=_tiny.IMAGE,
            video_token_index=_tiny.VIDEO,
            image_grid_pinpoints=[[32, 64], [64, 32], [64, 64]],
        )
        model: nn.Module = LlavaNextVideoForConditionalGeneration(config).eval()
        return model

    @classmethod
    def random_inputs(
        cls, model: nn.Module, rows: Sequence[Sequence[int]], modality: str = "image"
    ) -> dict[str, Tensor]:
        """Return random images of several shapes, or videos."""
        if modality == "image":
            return random_anyres_images(model.config, rows, counted=False)
        return super().random_inputs(model, rows, modality)
