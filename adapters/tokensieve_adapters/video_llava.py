"""Video-LLaVA: one square grid of patches a picture; a video's frames keep their class tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokensieve.evidence import NEWLINE
from tokensieve.models.adapter import Adapter
from tokensieve.models.decoder import Decoder
from tokensieve.models.layouts import raster
from tokensieve_adapters import _tiny
from tokensieve_adapters._tower import PatchEncoder


class VideoLlavaDecoder(Decoder):
    """Eight frames a video, each with its class token in front, which stands in the grid like a newline."""

    vision_path = "image_tower.encoder.layers"
    vision_types = frozenset({"clip_vision_model"})
    refused_inputs: ClassVar[Mapping[str, str]] = {
        "pixel_values_images": "the library calls it pixel_values now; pass it by that name, which the processor gives "
        "with return_legacy_image_output=False"
    }

    @property
    def vision_prefix(self) -> int:
        """One class token."""
        return 1

    def layout(self, modality: str, output: Any, request: Mapping[str, Any]) -> list[Tensor]:
        """Lay out pictures row by row, and videos frame by frame."""
        vision = self.config.vision_config
        side = vision.image_size // vision.patch_size
        if modality == "image":
            return [raster(side, side) for _ in output.pooler_output]
        given = request.get("pixel_values_videos")
        frames = given.shape[1] if isinstance(given, Tensor) else len(output.pooler_output)
        classes = torch.tensor([[0, frame, 0, NEWLINE] for frame in range(frames)]).unsqueeze(1)
        patches = raster(side, side, frames).reshape(frames, side * side, 4)
        video = torch.cat([classes, patches], dim=1).reshape(-1, 4)
        return [video] * (len(output.pooler_output) // frames)

    def encoded_images(self, modality: str, layouts: Sequence[Tensor], request: Mapping[str, Any]) -> list[int]:
        """Videos have a tower of their own, in which no token leaves."""
        return [int(modality == "image")] * len(layouts)


class VideoLlavaEncoder(PatchEncoder):
    """The tower of pictures."""

    @property
    def tower(self) -> nn.Module:
        """The one that takes no videos."""
        return self.model.get_submodule("model.image_tower")


class VideoLlavaAdapter(Adapter):
    """VideoLlavaForConditionalGeneration."""

    name = "video_llava"
    model_types = ("video_llava",)
    decoder_type = VideoLlavaDecoder
    encoder_type = VideoLlavaEncoder
    oldest_transformers = (5, 21)

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model of 16 patches a picture."""
        from transformers import CLIPVisionConfig, LlamaConfig, VideoLlavaConfig, VideoLlavaForConditionalGeneration

        config = VideoLlavaConfig(
            vision_config=CLIPVisionConfig(**_tiny.vision()),
            text_config=LlamaConfig(**_tiny.text()),
            image_token_index=_tiny.IMAGE,
            video_token_index=_tiny.VIDEO,
        )
        model: nn.Module = VideoLlavaForConditionalGeneration(config).eval()
        return model
