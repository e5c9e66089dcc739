"""The model for the timings."""

from __future__ import annotations

from typing import Any

import torch

IMAGE = 999


def llava(layers: int = 12, width: int = 1024) -> Any:
    """Return a LLaVA with random weights: 24 x 24 patches as in LLaVA-1.5, and a vision tower that costs little.

    At a width of 1024, 24 layers are about 0.4 B weights, as in language models of 0.5 B without their vocabulary.
    """
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, image_size=336, patch_size=14
    )
    text = LlamaConfig(
        vocab_size=1000,
        hidden_size=width,
        intermediate_size=11 * width // 4,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        pad_token_id=0,
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)
    return LlavaForConditionalGeneration(config).eval()
