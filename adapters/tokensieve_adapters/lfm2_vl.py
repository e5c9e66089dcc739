"""LFM2-VL: tiles of several shapes, 2 x 2 patches a token; most layers of its language model are convolutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokensieve.errors import RefusedError
from tokensieve.models.adapter import Adapter
from tokensieve.models.decoder import Decoder
from tokensieve.models.layouts import raster
from tokensieve_adapters import _tiny


class Lfm2VlDecoder(Decoder):
    """One grid for each tile. Only the prompt's text says which tiles are one image, so each tile counts as one."""

    def layout(self, modality: str, output: Any, request: Mapping[str, Any]) -> list[Tensor]:
        """Return the layout: a grid for each tile."""
        shapes = request.get("spatial_shapes")
        if shapes is None:
            raise RefusedError("where each token of an encoded picture is depends on spatial_shapes; pass them too")
        factor = self.config.downsample_factor
        return [raster(height // factor, width // factor) for height, width in torch.as_tensor(shapes).tolist()]


class Lfm2VlAdapter(Adapter):
    """Lfm2VlForConditionalGeneration."""

    name = "lfm2_vl"
    model_types = ("lfm2_vl",)
    decoder_type = Lfm2VlDecoder

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with up to 16 tokens a tile, and attention in two layers."""
        from transformers import Lfm2Config, Lfm2VlConfig, Lfm2VlForConditionalGeneration
        from transformers import Siglip2VisionConfig as Vision

        kinds = ["conv", "full_attention"] * 2
        tower = {name: value for name, value in _tiny.vision(num_patches=64).items() if name != "image_size"}
        config = Lfm2VlConfig(
            vision_config=Vision(**tower, vision_use_head=False),
            text_config=Lfm2Config(**_tiny.text(layer_types=kinds, block_auto_adjust_ff_dim=False)),
            image_token_id=_tiny.IMAGE,
            projector_hidden_size=48,
        )
        model: nn.Module = Lfm2VlForConditionalGeneration(config).eval()
        return model

    @classmethod
    def random_inputs(
        cls, model: nn.Module, rows: Sequence[Sequence[int]], modality: str = "image"
    ) -> dict[str, Tensor]:
        """Return random tiles of several shapes, as rows of flattened patches, padded to the largest."""
        vision: Any = model.config.vision_config  # type: ignore[union-attr]
        shapes = [(4, 6), (8, 8), (6, 4)]
        seeds = [seed for row in rows for seed in row]
        if not seeds:
            return {}
        sizes = torch.tensor([shapes[seed % len(shapes)] for seed in seeds])
        pixels = torch.zeros(len(seeds), vision.num_patches, 3 * vision.patch_size**2)
        for number, (seed, size) in enumerate(zip(seeds, sizes, strict=True)):
            patches = torch.randn(int(size.prod()), pixels.shape[-1], generator=torch.Generator().manual_seed(seed))
            pixels[number, : len(patches)] = patches
        real = torch.arange(vision.num_patches) < sizes.prod(dim=1, keepdim=True)
        return {"pixel_values": pixels, "spatial_shapes": sizes, "pixel_attention_mask": real.int()}
