"""Idefics3 and SmolVLM: square tiles, or frames of a video, with text between them; tokens by pixel shuffle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokensieve.models.adapter import Adapter
from tokensieve.models.decoder import Modality
from tokensieve.models.layouts import raster, require_size
from tokensieve_adapters import _tiny
from tokensieve_adapters._tower import MergedPatchesDecoder


class Idefics3Decoder(MergedPatchesDecoder):
    """One grid for each tile. Only the prompt's text says which tiles are one image, so each tile counts as one."""

    projector_name = "connector"
    language_model_name = "text_model"
    vision_layers_path = "vision_model.encoder.layers"
    vision_model_types = frozenset({"idefics3_vision", "smolvlm_vision"})

    @property
    def merge_size(self) -> int:
        """The number of patches on each side of a token."""
        return int(self.config.scale_factor)

    def split_inputs(self, modality: Modality, inputs: Mapping[str, Any]) -> list[dict[str, Tensor]] | None:
        """Return the inputs of each prompt, whose tiles count as one image, without the empty tiles that pad it."""
        prompts = super().split_inputs(modality, inputs)
        if prompts is None or inputs[modality.pixel_argument].ndim != 5:
            return None
        real = (inputs[modality.pixel_argument] != 0).flatten(2).any(dim=2)
        if not bool(real.any(dim=1).all()):
            return None
        return [
            {name: value[:, own] for name, value in prompt.items()} for prompt, own in zip(prompts, real, strict=True)
        ]

    def layout(self, modality: str, output: Any, request: Mapping[str, Any]) -> list[Tensor]:
        """Return the layout: a grid for each tile."""
        vision = self.config.vision_config
        require_size(request.get("pixel_values"), vision.image_size)
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
        """Return a model with 16 tokens a tile."""
        from transformers import Idefics3Config, Idefics3ForConditionalGeneration

        model: nn.Module = Idefics3ForConditionalGeneration(_config(Idefics3Config)).eval()
        return model

    @classmethod
    def random_inputs(
        cls, model: nn.Module, rows: Sequence[Sequence[int]], modality: str = "image"
    ) -> dict[str, Tensor]:
        """Return random tiles `[prompts, largest number of tiles, 3, side, side]`, with empty ones at the end."""
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

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with 16 tokens a tile."""
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
