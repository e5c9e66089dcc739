"""Video-LLaVA: one square grid of patches for each image; the frames of a video keep their class tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokensieve.evidence import NEWLINE
from tokensieve.models.adapter import Adapter
from tokensieve.models.decoder import Decoder
from tokensieve.models.layouts import raster, require_size
from tokensieve_adapters import _tiny
from tokensieve_adapters._tower import PatchTokenEncoder


class VideoLlavaDecoder(Decoder):
    """Square grids. Each frame of a video begins with its class token, which the layout treats as a newline token."""

    vision_layers_path = "image_tower.encoder.layers"
    vision_model_types = frozenset({"clip_vision_model"})
    refused_inputs: ClassVar[Mapping[str, str]] = {
        "pixel_values_images": "the library calls it pixel_values now; pass it by that name, which the processor gives "
        "with return_legacy_image_output=False"
    }

    @property
    def num_vision_prefix_tokens(self) -> int:
        """1: a class token."""
        return 1

    def layout(self, modality: str, output: Any, request: Mapping[str, Any]) -> list[Tensor]:
        """Return the layout: a grid for each image, and for each frame of a video."""
        vision = self.config.vision_config
        require_size(
            request.get({"image": "pixel_values", "video": "pixel_values_videos"}[modality]), vision.image_size
        )
        side = vision.image_size // vision.patch_size
        if modality == "image":
            return [raster(side, side) for _ in output.pooler_output]
        given = request.get("pixel_values_videos")
        frames = given.shape[1] if isinstance(given, Tensor) else len(output.pooler_output)
        classes = torch.tensor([[0, frame, 0, NEWLINE] for frame in range(frames)]).unsqueeze(1)
        patches = raster(side, side, frames).reshape(frames, side * side, 4)
        video = torch.cat([classes, patches], dim=1).reshape(-1, 4)
        return [video] * (len(output.pooler_output) // frames)

    def num_encoder_images(self, modality: str, layouts: Sequence[Tensor], request: Mapping[str, Any]) -> list[int]:
        """Return 1 for images and 0 for videos, which have a tower of their own."""
        return [int(modality == "image")] * len(layouts)


class VideoLlavaEncoder(PatchTokenEncoder):
    """The vision tower for images; the one for videos is not pruned."""

    @property
    def tower(self) -> nn.Module:
        """The vision tower for images."""
        return self.model.get_submodule("model.image_tower")


class VideoLlavaAdapter(Adapter):
    """VideoLlavaForConditionalGeneration."""

    name = "video_llava"
    model_types = ("video_llava",)
    decoder_type = VideoLlavaDecoder
    encoder_type = VideoLlavaEncoder

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with 16 patches an image."""
        from transformers import CLIPVisionConfig, LlamaConfig, VideoLlavaConfig, VideoLlavaForConditionalGeneration

        config = VideoLlavaConfig(
            vision_config=CLIPVisionConfig(**_tiny.vision()),
            text_config=LlamaConfig(**_tiny.text()),
            image_token_index=_tiny.IMAGE,
            video_token_index=_tiny.VIDEO,
        )
        model: nn.Module = VideoLlavaForConditionalGeneration(config).eval()
        return model
