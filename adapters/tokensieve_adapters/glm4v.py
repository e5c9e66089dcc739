"""GLM-4.1V, 4.5V (mixture of experts) and 4.6V: a token is a square of patches; position ids of several axes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tokensieve.models.decoder import Modality
from tokensieve_adapters import _tiny
from tokensieve_adapters._mrope import MropeAdapter, MropeDecoder


class Glm4vDecoder(MropeDecoder):
    """Images only, because the frames of a video have the placeholder of images."""

    refused_inputs = dict.fromkeys(
        ("pixel_values_videos", "video_grid_thw"),
        "its videos share the placeholder of pictures, so their tokens cannot be told apart; give frames as images",
    )

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Images only."""
        return super().modalities[:1]


class Glm4vAdapter(MropeAdapter):
    """Glm4vForConditionalGeneration."""

    name = "glm4v"
    model_types = ("glm4v",)
    decoder_type = Glm4vDecoder
    pixel_refusal = "its vision tower works learned positions out of whole grids of patches"

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with a few tokens an image, and rotary embeddings on half of each head."""
        from transformers import Glm4vConfig, Glm4vForConditionalGeneration

        model: nn.Module = Glm4vForConditionalGeneration(Glm4vConfig(**_tiny_settings())).eval()
        return model

    @classmethod
    def aligned_inputs(cls, model: nn.Module, ids: Tensor, num_generated: int = 0) -> dict[str, Tensor]:
        """Return `mm_token_type_ids`: 0 for text, 1 for images."""
        return {"mm_token_type_ids": (ids == _tiny.IMAGE).int()}


class Glm4vMoeAdapter(Glm4vAdapter):
    """Glm4vMoeForConditionalGeneration."""

    name = "glm4v_moe"
    model_types = ("glm4v_moe",)

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with two of four experts and a shared one for each token, in all layers but the first."""
        from transformers import Glm4vMoeConfig, Glm4vMoeForConditionalGeneration

        experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
        model: nn.Module = Glm4vMoeForConditionalGeneration(Glm4vMoeConfig(**_tiny_settings(**experts))).eval()
        return model


class Glm46vAdapter(Glm4vAdapter):
    """Glm46VForConditionalGeneration."""

    name = "glm46v"
    model_types = ("glm46v",)

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with the parts of GLM-4V."""
        from transformers import Glm46VConfig, Glm46VForConditionalGeneration

        model: nn.Module = Glm46VForConditionalGeneration(Glm46VConfig(**_tiny_settings())).eval()
        return model


def _tiny_settings(**text: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 1], "partial_rotary_factor": 0.5, "rope_theta": 10000.0}
    return {
        "text_config": _tiny.text(rope_parameters=rope, **text),
        "vision_config": {
            "depth": 2,
            "hidden_size": 32,
            "out_hidden_size": 48,
            "intermediate_size": 64,
            "num_heads": 4,
            "image_size": 32,
            "patch_size": 4,
        },
        "image_token_id": _tiny.IMAGE,
        "video_token_id": _tiny.VIDEO,
        "image_start_token_id": 61,
        "image_end_token_id": 60,
    }
