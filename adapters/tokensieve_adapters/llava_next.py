"""LLaVA-NeXT: the whole image and tiles of it, with newline tokens and without padding."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from tokensieve.models.adapter import Adapter
from tokensieve_adapters import _tiny
from tokensieve_adapters._anyres import AnyresDecoder, random_anyres_images
from tokensieve_adapters._tower import TowerEncoder


class LlavaNextAdapter(Adapter):
    """LlavaNextForConditionalGeneration."""

    name = "llava_next"
    model_types = ("llava_next",)
    decoder_type = AnyresDecoder
    encoder_type = TowerEncoder

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with 16 patches a tile and up to five tiles."""
        from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextConfig, LlavaNextForConditionalGeneration

        config = LlavaNextConfig(
            vision_config=CLIPVisionConfig(**_tiny.vision()),
            text_config=LlamaConfig(**_tiny.text()),
            image_token_index=_tiny.IMAGE,
            image_grid_pinpoints=[[32, 64], [64, 32], [64, 64]],
        )
        model: nn.Module = LlavaNextForConditionalGeneration(config).eval()
        return model

    @classmethod
    def random_inputs(
        cls, model: nn.Module, rows: Sequence[Sequence[int]], modality: str = "image"
    ) -> dict[str, Tensor]:
        """Return random images of several shapes."""
        return random_anyres_images(model.config, rows, counted=False)
