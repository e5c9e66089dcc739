"""LLaVA-1.5: a CLIP or SigLIP tower, a two-layer projector and a Llama-like language model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tokensieve.adapter import Adapter, Decoder, Partner, raster
from tokensieve.errors import RefusedError
from tokensieve_adapters._example import save_example
from tokensieve_adapters._partner import load_partner
from tokensieve_adapters._tower import class_tokens, selected_attention

TOWERS = ("clip_vision_model", "siglip_vision_model")


class LlavaDecoder(Decoder):
    """One square grid of patches per image, one placeholder per patch."""

    @property
    def vision_attention(self) -> nn.Module | None:
        """That of the selected layer."""
        return selected_attention(self.base.get_submodule("vision_tower"), self.config)

    @property
    def vision_prefix(self) -> int:
        """One class token in CLIP, none in SigLIP."""
        return class_tokens(self.config)

    def layout(self, modality: str, output: Any, request: Mapping[str, Any]) -> list[Tensor]:
        """Lay each image's patches out row by row."""
        grids = []
        for image in output.pooler_output:
            n = image.shape[-2]
            side = math.isqrt(n)
            if side * side != n:
                raise RefusedError(
                    f"an image has {n} visual tokens, which is no square grid; with "
                    "vision_feature_select_strategy='full' the class token is among them, so use 'default'"
                )
            grids.append(raster(side, side))
        return grids

    def partner(self, query_encoder: object) -> Partner:
        """Load the CLIP or SigLIP model whose vision tower this is."""
        return load_partner(query_encoder, self.config.vision_config)


class LlavaAdapter(Adapter):
    """LlavaForConditionalGeneration with a CLIP or SigLIP tower (not Pixtral, whose grids vary)."""

    name = "llava"

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        """Match by config: the model type and that of the tower."""
        config = getattr(model, "config", None)
        return (
            getattr(config, "model_type", None) == "llava"
            and getattr(getattr(config, "vision_config", None), "model_type", None) in TOWERS
        )

    @property
    def decoder(self) -> Decoder:
        """The language model."""
        return LlavaDecoder(self.model)

    @classmethod
    def tiny(cls) -> nn.Module:
        """Give a model of 36 patches an image, three layers and 64 words."""
        from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

        vision = CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=48,
            patch_size=8,
        )
        text = LlamaConfig(
            vocab_size=64,
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
        config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=63)
        model: nn.Module = LlavaForConditionalGeneration(config).eval()
        return model

    @classmethod
    def example(cls, directory: Path) -> str | None:
        """Save a model of 576 visual tokens an image and random weights."""
        return save_example(directory)
