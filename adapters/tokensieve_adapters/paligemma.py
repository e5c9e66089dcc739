"""PaliGemma 1 and 2: one square grid a picture, and a prompt whose words all see each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tokensieve.adapter import Adapter, Decoder, Partner, raster
from tokensieve_adapters import _tiny
from tokensieve_adapters._match import is_model_type
from tokensieve_adapters._partner import load_partner
from tokensieve_adapters._tower import class_tokens, selected_attention


class PaliGemmaDecoder(Decoder):
    """Positions begin at one."""

    @property
    def vision_attention(self) -> nn.Module | None:
        """That of the selected layer."""
        return selected_attention(self.base.get_submodule("vision_tower"), self.config)

    @property
    def vision_prefix(self) -> int:
        """One class token in CLIP, none in SigLIP."""
        return class_tokens(self.config)

    def layout(self, modality: str, output: Any, request: Mapping[str, Any]) -> list[Tensor]:
        """Lay each picture out row by row."""
        vision = self.config.vision_config
        side = vision.image_size // vision.patch_size
        return [raster(side, side) for _ in range(output.pooler_output.flatten(0, 1).shape[0] // side**2)]

    def positions(self, request: Mapping[str, Any], mask: Tensor, start: int, steps: int) -> Tensor:
        """Give positions from one on."""
        return super().positions(request, mask, start, steps) + 1

    def partner(self, query_encoder: object) -> Partner:
        """Load the SigLIP model whose vision tower this is."""
        return load_partner(query_encoder, self.config.vision_config)


class PaliGemmaAdapter(Adapter):
    """PaliGemmaForConditionalGeneration with a Gemma language model."""

    name = "paligemma"
    text = "gemma"

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        """Match by config: the model type and that of the language model."""
        config = getattr(model, "config", None)
        kind = getattr(getattr(config, "text_config", None), "model_type", None)
        return is_model_type(model, "paligemma") and kind == cls.text

    @property
    def decoder(self) -> Decoder:
        """The language model."""
        return PaliGemmaDecoder(self.model)

    @classmethod
    def tiny(cls) -> nn.Module:
        """Give a model of 16 tokens a picture."""
        from transformers import GemmaConfig, PaliGemmaConfig, PaliGemmaForConditionalGeneration, SiglipVisionConfig

        config = PaliGemmaConfig(
            vision_config=SiglipVisionConfig(**_tiny.vision(vision_use_head=False)),
            text_config=GemmaConfig(**_tiny.text(head_dim=12)),
            image_token_index=_tiny.IMAGE,
            projection_dim=48,
            hidden_size=48,
        )
        model: nn.Module = PaliGemmaForConditionalGeneration(config).eval()
        return model

    @classmethod
    def along(cls, model: nn.Module, ids: Tensor, answered: int = 0) -> dict[str, Tensor]:
        """Mark all of a prompt as prefix, and what the model answered as not."""
        return {"token_type_ids": (torch.arange(ids.shape[1]) >= ids.shape[1] - answered).long().expand_as(ids)}


class PaliGemma2Adapter(PaliGemmaAdapter):
    """PaliGemmaForConditionalGeneration with a Gemma 2 language model, whose layers alternate with windows."""

    name = "paligemma2"
    text = "gemma2"

    @classmethod
    def tiny(cls) -> nn.Module:
        """Give a model of 16 tokens a picture, with windows longer than its prompts."""
        from transformers import Gemma2Config, PaliGemmaConfig, PaliGemmaForConditionalGeneration, SiglipVisionConfig

        config = PaliGemmaConfig(
            vision_config=SiglipVisionConfig(**_tiny.vision(vision_use_head=False)),
            text_config=Gemma2Config(**_tiny.text(head_dim=12, query_pre_attn_scalar=12, sliding_window=24)),
            image_token_index=_tiny.IMAGE,
            projection_dim=48,
            hidden_size=48,
        )
        model: nn.Module = PaliGemmaForConditionalGeneration(config).eval()
        return model
