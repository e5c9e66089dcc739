"""FastVLM: a convolutional tower with one square grid of tokens for each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokensieve.models.adapter import Adapter
from tokensieve.models.decoder import Decoder
from tokensieve.models.layouts import squares
from tokensieve_adapters import _tiny


class FastVlmDecoder(Decoder):
    """One grid for each image."""

    def layout(self, modality: str, output: Any, request: Mapping[str, Any]) -> list[Tensor]:
        """Return the layout: a grid for each image."""
        return squares([one.shape[-2] for one in output.pooler_output], request.get("pixel_values"))


class FastVlmAdapter(Adapter):
    """FastVlmForConditionalGeneration."""

    name = "fast_vlm"
    model_types = ("fast_vlm",)
    decoder_type = FastVlmDecoder

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with 16 tokens an image."""
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
    def random_inputs(
        cls, model: nn.Module, rows: Sequence[Sequence[int]], modality: str = "image"
    ) -> dict[str, Tensor]:
        """Return random images of 4 x 4 tokens; the tower's config does not hold the image size."""
        seeds = [seed for row in rows for seed in row]
        made = [torch.randn(3, 128, 128, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return {"pixel_values": torch.stack(made)} if made else {}
