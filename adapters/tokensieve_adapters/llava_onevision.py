"""LLaVA-OneVision: tiles of a SigLIP tower, downsampled if there are many; frames of a video are pooled 2 x 2."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokensieve.evidence import NEWLINE
from tokensieve.models.adapter import Adapter
from tokensieve.models.layouts import raster, require_size
from tokensieve_adapters import _tiny
from tokensieve_adapters._anyres import AnyresDecoder, random_anyres_images
from tokensieve_adapters._tower import TowerEncoder


class LlavaOnevisionDecoder(AnyresDecoder):
    """Images as tiles. Frames of a video have a quarter of the patches; one newline token follows the last frame."""

    def layout(self, modality: str, output: Any, request: Mapping[str, Any]) -> list[Tensor]:
        """Return the layout: images by tiles, videos by frames."""
        if modality == "image":
            return super().layout(modality, output, request)
        vision = self.config.vision_config
        require_size(request.get("pixel_values_videos"), vision.image_size)
        side = math.ceil(vision.image_size // vision.patch_size / 2)
        newline = torch.tensor([[0, 0, side - 1, NEWLINE]])
        videos = []
        for video in output.pooler_output:
            frames = (len(video) - 1) // side**2
            newline[0, 1] = frames - 1
            videos.append(torch.cat([raster(side, side, frames), newline]))
        return videos

    def pack(self, places: list[Tensor], sizes: Tensor, newline: Tensor) -> Tensor:
        """Return the vectors of one image, `[tiles, patches, d]`, packed as the model packs features: `[tokens, d]`."""
        packed, _ = self.base_model.pack_image_features(  # type: ignore[operator]
            places, sizes, image_newline=newline, vision_aspect_ratio=self.config.vision_aspect_ratio
        )
        result: Tensor = packed[0]
        return result


class LlavaOnevisionAdapter(Adapter):
    """LlavaOnevisionForConditionalGeneration."""

    name = "llava_onevision"
    model_types = ("llava_onevision",)
    decoder_type = LlavaOnevisionDecoder
    encoder_type = TowerEncoder

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with 16 patches a tile and up to five tiles; more than two tiles are downsampled."""
        from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, Qwen2Config
        from transformers import SiglipVisionConfig as Vision

        config = LlavaOnevisionConfig(
            vision_config=Vision(**_tiny.vision(vision_use_head=False)),
            text_config=Qwen2Config(**_tiny.text()),
            image_token_index=_tiny.IMAGE,
            video_token_index=_tiny.VIDEO,
            image_grid_pinpoints=[[32, 64], [64, 32], [64, 64]],
            vision_aspect_ratio="anyres_max_2",
        )
        model: nn.Module = LlavaOnevisionForConditionalGeneration(config).eval()
        return model

    @classmethod
    def random_inputs(
        cls, model: nn.Module, rows: Sequence[Sequence[int]], modality: str = "image"
    ) -> dict[str, Tensor]:
        """Return random images of several shapes, or videos."""
        if modality == "image":
            return random_anyres_images(model.config, rows, counted=True)
        return super().random_inputs(model, rows, modality)
