"""Molmo 2: a small whole image and a grid of crops, pooled 2 x 2, added to the embeddings of the placeholders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tokensieve.errors import RefusedError
from tokensieve.models.adapter import Adapter
from tokensieve.models.decoder import Decoder, Modality
from tokensieve.models.layouts import raster
from tokensieve_adapters import _tiny

if TYPE_CHECKING:
    from tokensieve.stage import Stage


class Molmo2Decoder(Decoder):
    """Tile 0 is the whole image, tile 1 all crops as one grid. Images only: video frames have their placeholder."""

    refused_inputs = dict.fromkeys(
        ("pixel_values_videos", "video_grids"),
        "its videos share the placeholder of pictures, so their tokens cannot be told apart; give frames as images",
    )

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Images only."""
        return super().modalities[:1]

    def split_inputs(self, modality: Modality, inputs: Mapping[str, Any]) -> list[dict[str, Tensor]] | None:
        """Return None, because `image_token_pooling` numbers patches through all crops of a batch."""
        return None

    def layout(self, modality: str, output: Any, request: Mapping[str, Any]) -> list[Tensor]:
        """Return the layout: the grid of the whole image, then that of the crops."""
        grids = request.get("image_grids")
        if grids is None:
            raise RefusedError("where each token of an encoded picture is depends on image_grids; pass them too")
        shapes = torch.as_tensor(grids).tolist()
        return [torch.cat([raster(small, narrow), raster(h, w, tile=1)]) for small, narrow, h, w in shapes]

    def refusals(self, stage: Stage) -> list[str]:
        """Return the reasons of the base class, and one if layers scale rotary embeddings differently."""
        scaled = len(self.text_config.rope_scaling_layers)
        if stage.at.block and scaled != len(self.layers):
            said = f"its layers scale rotary positions differently ({scaled} of {len(self.layers)} scale them)"
            return [*super().refusals(stage), f"{said}; prune at decoder.0"]
        return super().refusals(stage)


class Molmo2Adapter(Adapter):
    """Molmo2ForConditionalGeneration."""

    name = "molmo2"
    model_types = ("molmo2",)
    decoder_type = Molmo2Decoder

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with four tokens a crop."""
        from transformers import Molmo2Config, Molmo2ForConditionalGeneration

        heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8}
        config = Molmo2Config(
            vision_config=_tiny.vision(image_size=[16, 16], patch_size=4, **heads),
            adapter_config={
                "hidden_size": 32,
                "intermediate_size": 64,
                "text_hidden_size": 48,
                "vision_feature_layer": [2, 0],
                **heads,
            },
            text_config=_tiny.text(head_dim=12, additional_vocab_size=2),
            image_patch_id=_tiny.IMAGE,
            image_start_token_id=61,
            image_end_token_id=60,
        )
        model: nn.Module = Molmo2ForConditionalGeneration(config).eval()
        return model

    @classmethod
    def random_inputs(
        cls, model: nn.Module, rows: Sequence[Sequence[int]], modality: str = "image"
    ) -> dict[str, Tensor]:
        """Return random images with one crop, two crops side by side, or two crops one above the other."""
        vision: Any = model.config.vision_config  # type: ignore[union-attr]
        side = vision.image_size[0] // vision.patch_size
        shapes = [(1, 1), (1, 2), (2, 1)]
        pixels, pooled, grids, begin = [], [], [], 0
        for seed in (seed for row in rows for seed in row):
            down, across = shapes[seed % len(shapes)]
            crops = 1 + down * across
            width = 3 * vision.patch_size**2
            pixels.append(torch.randn(crops, side**2, width, generator=torch.Generator().manual_seed(seed)))
            number = begin + torch.arange(crops * side**2).reshape(crops, side, side)
            canvas = number[1:].reshape(down, across, side, side).transpose(1, 2).reshape(down * side, across * side)
            for grid in (number[0], canvas):
                pooled.append(grid.unfold(0, 2, 2).unfold(1, 2, 2).reshape(-1, 4))
            grids.append([side // 2, side // 2, down * side // 2, across * side // 2])
            begin += crops * side**2
        if not pixels:
            return {}
        return {
            "pixel_values": torch.cat(pixels),
            "image_token_pooling": torch.cat(pooled),
            "image_grids": torch.tensor(grids),
        }

    @classmethod
    def aligned_inputs(cls, model: nn.Module, ids: Tensor, num_generated: int = 0) -> dict[str, Tensor]:
        """Return `mm_token_type_ids`: 0 for text, 1 for images."""
        return {"mm_token_type_ids": (ids == _tiny.IMAGE).int()}
