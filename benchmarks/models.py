"""The model for the timings."""

from __future__ import annotations

from typing import Any

import torch

VISUAL = 576
TEXT = 64
IMAGE = 999


def llava(layers: int = 4, width: int = 512) -> Any:
    """Return a LLaVA with random weights, 24 x 24 patches as in LLaVA-1.5, and a small vision tower."""
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
        num_attention_heads=8,
        num_key_value_heads=8,
        pad_token_id=0,
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)
    return LlavaForConditionalGeneration(config).eval()


def request(model: Any, visual: int = VISUAL, text: int = TEXT) -> dict[str, Any]:
    """Return a prompt of one image that is encoded already, as `generate` passes it to forward."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    generator = torch.Generator().manual_seed(1)
    words = torch.randint(1, IMAGE, (text,), generator=generator)
    ids = torch.cat([words[: text // 2], torch.full((visual,), IMAGE), words[text // 2 :]]).unsqueeze(0)
    features = torch.randn(visual, model.config.text_config.hidden_size, generator=generator)
    return {
        "input_ids": ids,
        "position_ids": torch.arange(ids.shape[1]).unsqueeze(0),
        "mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=[features])},
        "use_cache": True,
        "logits_to_keep": 1,
    }
