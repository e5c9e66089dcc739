"""LLaVA-1.5: a CLIP or SigLIP tower, a two-layer projector and a Llama-like language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tokensieve.models.adapter import Adapter
from tokensieve.models.layouts import squares
from tokensieve.sites import Site
from tokensieve_adapters._example import save_example
from tokensieve_adapters._tower import NUM_CLASS_TOKENS, PatchTokenEncoder, TowerDecoder


class LlavaDecoder(TowerDecoder):
    """One square grid of patches for each image, one placeholder for each patch."""

    prefills_from_embeddings = True

    @property
    def tokens_per_image(self) -> int:
        """The number of patches."""
        vision = self.config.vision_config
        return int(vision.image_size // vision.patch_size) ** 2

    def layout(self, modality: str, output: Any, request: Mapping[str, Any]) -> list[Tensor]:
        """Return the layout: a square grid for each image."""
        return squares([image.shape[-2] for image in output.pooler_output], request.get("pixel_values"))


class LlavaAdapter(Adapter):
    """LlavaForConditionalGeneration with a CLIP or SigLIP tower (not Pixtral, whose grids vary)."""

    name = "llava"
    model_types = ("llava",)
    decoder_type = LlavaDecoder
    encoder_type = PatchTokenEncoder

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        """Return whether the model type and that of the vision tower fit."""
        config: Any = model.config if super().matches(model) else None
        return config is not None and config.vision_config.model_type in NUM_CLASS_TOKENS

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with 36 patches an image, four text layers and a vocabulary of 64."""
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
    def example(cls, directory: Path, sites: Sequence[Site] = ()) -> str | None:
        """Save a model with 576 visual tokens an image and random weights, and return a description of it."""
        return save_example(directory, sites)
