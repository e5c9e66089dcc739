"""PerceptionLM: square tiles of an image, or frames of a video, each pooled to a square grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokensieve.errors import RefusedError
from tokensieve.models.adapter import Adapter
from tokensieve.models.decoder import Decoder, Modality
from tokensieve.models.layouts import raster, squares
from tokensieve_adapters import _tiny


class PerceptionLMDecoder(Decoder):
    """One grid for each tile; one tower encodes images and videos."""

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Images, whose tiles are adjacent in the prompt, and videos."""
        image, video = self.config.image_token_id, self.config.video_token_id
        return Modality("image", image, "pixel_values"), Modality("video", video, "pixel_values_videos")

    def encode_visual_inputs(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the encoder outputs of a request; videos are encoded like images."""
        outputs = super().encode_visual_inputs(
            {name: value for name, value in request.items() if name != "pixel_values_videos"}
        )
        videos = request.get("pixel_values_videos")
        if videos is not None and "video" not in outputs:
            outputs["video"] = self.base_model.get_image_features(videos, return_dict=True)  # type: ignore[operator]
        return outputs

    def encoder_arguments(self, modality: Modality) -> frozenset[str]:
        """Return the argument with pixels alone."""
        return frozenset({modality.pixel_argument})

    def layout(self, modality: str, output: Any, request: Mapping[str, Any]) -> list[Tensor]:
        """Return the layout: tiles of images, frames of videos."""
        [pixels] = [request.get(one.pixel_argument) for one in self.modalities if one.name == modality]
        if not isinstance(pixels, Tensor):
            raise RefusedError(f"where each token of an encoded {modality} is depends on its pixels; pass them instead")
        parts, (tile,) = pixels.shape[1], squares([output.pooler_output.shape[-2]], pixels)
        rows, columns = (int(size) + 1 for size in tile[-1, 2:])
        if modality == "video":
            one = raster(rows, columns, frames=parts)
        else:
            one = torch.cat([raster(rows, columns, tile=number) for number in range(parts)])
        return [one] * (len(output.pooler_output) // parts)


class PerceptionLMAdapter(Adapter):
    """PerceptionLMForConditionalGeneration."""

    name = "perception_lm"
    model_types = ("perception_lm",)
    decoder_type = PerceptionLMDecoder

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with 16 tokens a tile."""
        from transformers import LlamaConfig, PerceptionLMConfig, PerceptionLMForConditionalGeneration
        from transformers import TimmWrapperConfig as Vision

        tower = {"img_size": [64, 64], "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "global_pool": ""}
        tower |= {"use_post_transformer_norm": False, "init_values": 0.1, "ref_feat_shape": [8, 8]}
        config = PerceptionLMConfig(
            vision_config=Vision(architecture="vit_pe_core_large_patch14_336", do_pooling=False, model_args=tower),
            text_config=LlamaConfig(**_tiny.text()),
            image_token_id=_tiny.IMAGE,
            video_token_id=_tiny.VIDEO,
            projector_pooling_ratio=2,
        )
        model: nn.Module = PerceptionLMForConditionalGeneration(config).eval()
        return model

    @classmethod
    def random_inputs(
        cls, model: nn.Module, rows: Sequence[Sequence[int]], modality: str = "image"
    ) -> dict[str, Tensor]:
        """Return random images of two tiles, or videos of two frames."""
        seeds = [seed for row in rows for seed in row]
        made = [torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        name = "pixel_values" if modality == "image" else "pixel_values_videos"
        return {name: torch.stack(made)} if made else {}
