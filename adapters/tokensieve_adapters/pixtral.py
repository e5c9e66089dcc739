"""Pixtral and Mistral 3: one grid for each image, of the image's own shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokensieve.errors import RefusedError
from tokensieve.models.adapter import Adapter
from tokensieve.models.decoder import Decoder, Modality
from tokensieve.models.layouts import raster
from tokensieve_adapters import _tiny
from tokensieve_adapters._tower import mean_over_squares


class PixtralDecoder(Decoder):
    """Tokens are patches, in Mistral 3 squares of patches, row by row."""

    vision_layers_path = "vision_tower.transformer.layers"
    vision_model_types = frozenset({"pixtral"})
    vision_attention_name = "attention"

    @property
    def merge_size(self) -> int:
        """The number of patches on each side of a token."""
        return int(getattr(self.config, "spatial_merge_size", 1))

    def split_inputs(self, modality: Modality, inputs: Mapping[str, Any]) -> list[dict[str, Tensor]] | None:
        """Return the inputs of each image, without the pixels that pad it to the size of others."""
        pictures = super().split_inputs(modality, inputs)
        if pictures is None or not isinstance(inputs.get("image_sizes"), Tensor):
            return None
        for picture in pictures:
            height, width = picture["image_sizes"][0].tolist()
            picture[modality.pixel_argument] = picture[modality.pixel_argument][..., :height, :width]
        return pictures

    def layout(self, modality: str, output: Any, request: Mapping[str, Any]) -> list[Tensor]:
        """Return the layout: a grid for each image."""
        return [raster(rows // self.merge_size, columns // self.merge_size) for rows, columns in self._grids(request)]

    def patches_to_tokens(self, values: Tensor, request: Mapping[str, Any], modality: str = "image") -> Tensor:
        """Return the mean over the patches of each token, image by image."""
        grids = self._grids(request)
        pictures = values.split([rows * columns for rows, columns in grids])
        return torch.cat(
            [mean_over_squares(own, *grid, self.merge_size) for own, grid in zip(pictures, grids, strict=True)]
        )

    def _grids(self, request: Mapping[str, Any]) -> list[tuple[int, int]]:
        """Return the rows and columns of patches of each image."""
        sizes = request.get("image_sizes")
        if sizes is None:
            raise RefusedError("where each token of an encoded picture is depends on image_sizes; pass them too")
        patch = self.config.vision_config.patch_size
        return [(height // patch, width // patch) for height, width in torch.as_tensor(sizes).tolist()]


class PixtralAdapter(Adapter):
    """LlavaForConditionalGeneration with a Pixtral tower."""

    name = "pixtral"
    model_types = ("llava",)
    decoder_type = PixtralDecoder

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        """Return whether the model type and that of the vision tower fit."""
        config: Any = model.config if super().matches(model) else None
        return config is not None and config.vision_config.model_type == "pixtral"

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model for images of up to 4 x 4 patches."""
        from transformers import LlavaConfig, LlavaForConditionalGeneration, MistralConfig, PixtralVisionConfig

        config = LlavaConfig(
            vision_config=PixtralVisionConfig(**_tiny.vision()),
            text_config=MistralConfig(**_tiny.text(head_dim=12, sliding_window=None)),
            image_token_index=_tiny.IMAGE,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        )
        model: nn.Module = LlavaForConditionalGeneration(config).eval()
        return model

    @classmethod
    def random_inputs(
        cls, model: nn.Module, rows: Sequence[Sequence[int]], modality: str = "image"
    ) -> dict[str, Tensor]:
        """Return random images of several shapes, padded to the largest."""
        config: Any = model.config
        side = config.vision_config.image_size
        shapes = [(side, side), (side // 2, side), (side, side // 2)]
        seeds = [seed for row in rows for seed in row]
        if not seeds:
            return {}
        pixels = torch.zeros(len(seeds), 3, side, side)
        sizes = torch.tensor([shapes[seed % len(shapes)] for seed in seeds])
        for number, (seed, (height, width)) in enumerate(zip(seeds, sizes.tolist(), strict=True)):
            picture = torch.randn(3, height, width, generator=torch.Generator().manual_seed(seed))
            pixels[number, :, :height, :width] = picture
        return {"pixel_values": pixels, "image_sizes": sizes}


class Mistral3Adapter(PixtralAdapter):
    """Mistral3ForConditionalGeneration."""

    name = "mistral3"
    model_types = ("mistral3",)

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model for images of up to 4 x 4 tokens, each a square of patches."""
        from transformers import (
            Mistral3Config,
            Mistral3ForConditionalGeneration,
            MistralConfig,
            PixtralVisionConfig,
        )

        config = Mistral3Config(
            vision_config=PixtralVisionConfig(**_tiny.vision(image_size=64)),
            text_config=MistralConfig(**_tiny.text(head_dim=12, sliding_window=None)),
            image_token_index=_tiny.IMAGE,
        )
        model: nn.Module = Mistral3ForConditionalGeneration(config).eval()
        return model
