"""Idefics3 and SmolVLM: square tiles with text between them, joined by pixel shuffle; frames of a video likewise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokensieve.models.adapter import Adapter
from tokensieve.models.decoder import Modality
from tokensieve.models.layouts import raster
from tokensieve_adapters import _tiny
from tokensieve_adapters._tower import SquaresDecoder


class Idefics3Decoder(SquaresDecoder):
    """A grid a tile; the prompt's text alone says which tiles make a picture, so each counts as an image."""

    projector_name = "connector"
    language_name = "text_model"
    vision_path = "vision_model.encoder.layers"
    vision_types = frozenset({"idefics3_vision", "smolvlm_vision"})

    @property
    def factor(self) -> int:
        """How many patches a token has on each side."""
        return int(self.config.scale_factor)

    def split_inputs(self, modality: Modality, given: Mapping[str, Any]) -> list[dict[str, Tensor]] | None:
        """Take the tiles of a prompt for one picture, without the empty ones that fill up rows."""
        prompts = super().split_inputs(modality, given)
        if prompts is None or given[modality.pixels].ndim != 5:
            return None
        real = (given[modality.pixels] != 0).flatten(2).any(dim=2)
        if not bool(real.any(dim=1).all()):
            return None
        return [
            {name: value[:, own] for name, value in prompt.items()} for prompt, own in zip(prompts, real, strict=True)
        ]

    def layout(self, modality: str, output: Any, request: Mapping[str, Any]) -> list[Tensor]:
        """Lay each tile out row by row."""
        vision = self.config.vision_config
        side = vision.image_size // vision.patch_size // self.config.scale_factor
        tokens = sum(len(sample) for sample in output.pooler_output)
        return [raster(side, side)] * (tokens // side**2)


class Idefics3Adapter(Adapter):
    """Idefics3ForConditionalGeneration."""

    name = "idefics3"
    model_types = ("idefics3",)
    decoder_type = Idefics3Decoder

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model of 16 tokens a tile."""
        from transformers import Idefics3Config, Idefics3ForConditionalGeneration

        model: nn.Module = Idefics3ForConditionalGeneration(_config(Idefics3Config)).eval()
        return model

    @classmethod
    def pictures(cls, model: nn.Module, rows: Sequence[Sequence[int]], modality: str = "image") -> dict[str, Tensor]:
        """Make random tiles `[prompts, most tiles, 3, side, side]`, empty ones at the end."""
        config: Any = model.config
        side = config.vision_config.image_size
        most = max(map(len, rows), default=0)
        if not most:
            return {}
        pixels = torch.zeros(len(rows), most, 3, side, side)
        for row, seeds in enumerate(rows):
            for number, seed in enumerate(seeds):
                pixels[row, number] = torch.randn(3, side, side, generator=torch.Generator().manual_seed(seed))
        return {"pixel_values": pixels}


class SmolVLMAdapter(Idefics3Adapter):
    """SmolVLMForConditionalGeneration."""

    name = "smolvlm"
    model_types = ("smolvlm",)
    oldest_transformers = (5, 21)

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model of 16 tokens a tile."""
        from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

        model: nn.Module = SmolVLMForConditionalGeneration(_config(SmolVLMConfig)).eval()
        return model


def _config(kind: Any) -> Any:
    from transformers import LlamaConfig

    return kind(
        vision_config=_tiny.vision(image_size=64),
        text_config=LlamaConfig(**_tiny.text()),
        image_token_id=_tiny.IMAGE,
        scale_factor=2,
        pad_token_id=_tiny.PAD,
    )
