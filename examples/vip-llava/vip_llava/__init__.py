"""The adapter vip_llava. It begins as one for ViP-LLaVA: write your family's names instead."""

import math
from collections.abc import Mapping
from typing import Any

from tokensieve import Adapter, Decoder, Registry, hookimpl
from tokensieve.models.layouts import raster
from torch import Tensor, nn


class VipLlavaDecoder(Decoder):
    """Where the visual tokens are in the language model."""

    def layout(self, modality: str, output: Any, request: Mapping[str, Any]) -> list[Tensor]:
        """Return the places of the tokens of each image: a square grid."""
        return [raster(side := math.isqrt(len(one)), side) for one in output.pooler_output]


class VipLlavaAdapter(Adapter):
    """VipLlavaForConditionalGeneration."""

    name = "vip_llava"
    model_types = ("vipllava",)
    decoder_type = VipLlavaDecoder

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a small model with random weights, for the tests."""
        from transformers import VipLlavaConfig, VipLlavaForConditionalGeneration

        small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
        text = small | {"model_type": "llama", "vocab_size": 64, "num_hidden_layers": 4}
        vision = small | {"num_hidden_layers": 3, "image_size": 32, "patch_size": 8}
        vision = {"vision_config": vision, "vision_feature_layer": [-2, 1]}
        config = VipLlavaConfig(text_config=text, image_token_index=63, **vision)
        return VipLlavaForConditionalGeneration(config)


@hookimpl
def register_adapters(registry: Registry) -> None:
    """Add the adapter."""
    registry.add_adapter(VipLlavaAdapter)
