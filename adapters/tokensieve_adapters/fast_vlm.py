"""FastVLM: a convolutional tower whose one square grid a picture is taken as it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokensieve.models.adapter import Adapter
from tokensieve.models.decoder import Decoder
from tokensieve.models.layouts import raster
from tokensieve_adapters import _tiny


class FastVlmDecoder(Decoder):
    """A grid a picture."""

    def layout(self, modality: str, output: Any, request: Mapping[str, Any]) -> list[Tensor]:
        """Lay each picture out row by row."""
        return [raster(side := math.isqrt(one.shape[-2]), side) for one in output.pooler_output]


class FastVlmAdapter(Adapter):
    """FastVlmForConditionalGeneration."""

    name = "fast_vlm"
    model_types = ("fast_vlm",)
    decoder_type = FastVlmDecoder

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model of 16 tokens a picture."""
        from transformers import FastVlmConfig, FastVlmForConditionalGeneration, Qwen2Config, TimmWrapperConfig

        tower = {"layers": (1, 1, 1, 1), "embed_dims": (8, 16, 16, 32), "global_pool": "avg"}
        settings: dict[str, Any] = {"architecture": "fastvit_t8", "hidden_size": 64, "num_labels": 0}
        config = FastVlmConfig(
            vision_config=TimmWrapperConfig(**settings, model_args=tower),
            text_config=Qwen2Config(**_tiny.text()),
            image_token_index=_tiny.IMAGE,
        )
        model: nn.Module = FastVlmForConditionalGeneration(config).eval()
        return model

    @classmethod
    def pictures(cls, model: nn.Module, rows: Sequence[Sequence[int]], modality: str = "image") -> dict[str, Tensor]:
        """Make random pictures of 4 x 4 tokens; the tower's config does not say how large they are."""
        seeds = [seed for row in rows for seed in row]
        made = [torch.randn(3, 128, 128, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return {"pixel_values": torch.stack(made)} if made else {}
