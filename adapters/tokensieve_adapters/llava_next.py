"""LLaVA-NeXT: a picture as a whole and as tiles of up to 2 x 2 grids, newline tokens, padding cut away."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from tokensieve.adapter import Adapter, Decoder, Partner
from tokensieve_adapters import _tiny
from tokensieve_adapters._anyres import AnyresDecoder, random_tiles
from tokensieve_adapters._match import is_model_type
from tokensieve_adapters._partner import load_partner


class LlavaNextDecoder(AnyresDecoder):
    """Tiles of a CLIP tower."""

    def partner(self, query_encoder: object) -> Partner:
        """Load the CLIP or SigLIP model whose vision tower this is."""
        return load_partner(query_encoder, self.config.vision_config)


class LlavaNextAdapter(Adapter):
    """LlavaNextForConditionalGeneration."""

    name = "llava_next"

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        """Match by the config's model type."""
        return is_model_type(model, "llava_next")

    @property
    def decoder(self) -> Decoder:
        """The language model."""
        return LlavaNextDecoder(self.model)

    @classmethod
    def tiny(cls) -> nn.Module:
        """Give a model of 16 patches a tile and up to five tiles."""
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
    def pictures(cls, model: nn.Module, rows: Sequence[Sequence[int]], modality: str = "image") -> dict[str, Tensor]:
        """Make random pictures of several shapes."""
        return random_tiles(model.config, rows, counted=False)
