"""Ovis2: square tiles whose tokens are mixtures of a visual vocabulary, with indicator tokens between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tokensieve.models.adapter import Adapter
from tokensieve.models.decoder import Decoder
from tokensieve.models.layouts import squares
from tokensieve_adapters import _tiny


class Ovis2Decoder(Decoder):
    """One grid for each tile. Only the prompt's text says which tiles are one image, so each tile counts as one."""

    projector_name = "visual_embeddings_table"

    def layout(self, modality: str, output: Any, request: Mapping[str, Any]) -> list[Tensor]:
        """Return the layout: a grid for each tile."""
        return squares([tile.shape[-2] for tile in output.pooler_output], request.get("pixel_values"))


class Ovis2Adapter(Adapter):
    """Ovis2ForConditionalGeneration."""

    name = "ovis2"
    model_types = ("ovis2",)
    decoder_type = Ovis2Decoder

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with 16 tokens a tile, and two indicator tokens."""
        from transformers import Ovis2Config, Ovis2ForConditionalGeneration, Qwen2Config
        from transformers.models.ovis2 import Ovis2VisionConfig

        vision = _tiny.vision(image_size=64, hidden_stride=2, vocab_size=24, num_visual_indicator_tokens=2)
        config = Ovis2Config(
            vision_config=Ovis2VisionConfig(**vision),
            text_config=Qwen2Config(**_tiny.text()),
            image_token_id=_tiny.IMAGE,
            visual_indicator_token_ids=[60, 61],
            vocab_size=_tiny.VOCABULARY_SIZE,
            hidden_size=48,
            tie_word_embeddings=False,
        )
        model: nn.Module = Ovis2ForConditionalGeneration(config).eval()
        return model

    @classmethod
    def reserved_token_ids(cls, model: nn.Module) -> tuple[int, ...]:
        """Return the ids of the indicator tokens."""
        config: Any = model.config
        return tuple(config.visual_indicator_token_ids)
