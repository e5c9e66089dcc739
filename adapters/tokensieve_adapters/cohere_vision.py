"""Aya Vision and Cohere 2 Vision: square tiles of a SigLIP tower, 2 x 2 patches a token, with text between tiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tokensieve.models.adapter import Adapter
from tokensieve.models.layouts import squares
from tokensieve_adapters import _tiny
from tokensieve_adapters._tower import MergedPatchesDecoder, TowerEncoder


class CohereVisionDecoder(MergedPatchesDecoder):
    """One grid for each tile. Only the prompt's text says which tiles are one image, so each tile counts as one."""

    @property
    def tokens_per_image(self) -> int:
        """The number of tokens of a tile."""
        vision = self.config.vision_config
        return int(vision.image_size // vision.patch_size // self.merge_size) ** 2

    def layout(self, modality: str, output: Any, request: Mapping[str, Any]) -> list[Tensor]:
        """Return the layout: a grid for each tile."""
        return squares([tile.shape[-2] for tile in output.pooler_output], request.get("pixel_values"))


class AyaVisionAdapter(Adapter):
    """AyaVisionForConditionalGeneration."""

    name = "aya_vision"
    model_types = ("aya_vision",)
    decoder_type = CohereVisionDecoder
    encoder_type = TowerEncoder

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with 16 tokens a tile."""
        from transformers import AyaVisionConfig, AyaVisionForConditionalGeneration

        model: nn.Module = AyaVisionForConditionalGeneration(
            AyaVisionConfig(**_tiny_settings(), image_token_index=_tiny.IMAGE)
        )
        return model.eval()


class Cohere2VisionAdapter(AyaVisionAdapter):
    """Cohere2VisionForConditionalGeneration."""

    name = "cohere2_vision"
    model_types = ("cohere2_vision",)

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with 16 tokens a tile."""
        from transformers import Cohere2VisionConfig, Cohere2VisionForConditionalGeneration

        settings: dict[str, Any] = _tiny_settings() | {"image_token_id": _tiny.IMAGE, "alignment_intermediate_size": 64}
        model: nn.Module = Cohere2VisionForConditionalGeneration(Cohere2VisionConfig(**settings))
        return model.eval()


def _tiny_settings() -> dict[str, Any]:
    from transformers import Cohere2Config, SiglipVisionConfig

    kinds = ["sliding_attention", "full_attention"] * 2
    return {
        "vision_config": SiglipVisionConfig(**_tiny.vision(image_size=64, vision_use_head=False)),
        "text_config": Cohere2Config(**_tiny.text(sliding_window=24, layer_types=kinds, logit_scale=1.0)),
    }
