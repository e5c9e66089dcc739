"""GLM-4V (GLM-4.1V and its kin): squares of patches, joined; positions of several axes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tokensieve.adapter import Modality
from tokensieve_adapters import _tiny
from tokensieve_adapters._mrope import MropeAdapter, MropeDecoder

GLM_TOKENS: dict[str, Any] = {
    "image_token_id": _tiny.IMAGE,
    "video_token_id": _tiny.VIDEO,
    "image_start_token_id": 61,
    "image_end_token_id": 60,
}


class Glm4vDecoder(MropeDecoder):
    """Pictures only: frames of a video stand in a prompt under the placeholder of pictures."""

    refused_inputs = dict.fromkeys(
        ("pixel_values_videos", "video_grid_thw"),
        "its videos share the placeholder of pictures, so their tokens cannot be told apart; give frames as images",
    )

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Pictures."""
        return super().modalities[:1]


class Glm4vAdapter(MropeAdapter):
    """Glm4vForConditionalGeneration."""

    name = "glm4v"
    model_types = ("glm4v",)
    decoder_type = Glm4vDecoder

    @classmethod
    def tiny(cls) -> nn.Module:
        """Give a model of a few squares of patches a picture, half of whose heads turn with positions."""
        from transformers import Glm4vConfig, Glm4vForConditionalGeneration

        rope = {
            "rope_type": "default",
            "mrope_section": [1, 1, 1],
            "partial_rotary_factor": 0.5,
            "rope_theta": 10000.0,
        }
        config = Glm4vConfig(
            text_config=_tiny.text(rope_parameters=rope),
            vision_config={
                "depth": 2,
                "hidden_size": 32,
                "out_hidden_size": 48,
                "intermediate_size": 64,
                "num_heads": 4,
                "image_size": 32,
                "patch_size": 4,
            },
            **GLM_TOKENS,
        )
        model: nn.Module = Glm4vForConditionalGeneration(config).eval()
        return model

    @classmethod
    def along(cls, model: nn.Module, ids: Tensor, answered: int = 0) -> dict[str, Tensor]:
        """Tell words and pictures apart."""
        return {"mm_token_type_ids": (ids == _tiny.IMAGE).int()}
