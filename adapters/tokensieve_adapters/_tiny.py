"""Settings of small models with random weights, from which adapters build their `tiny` model."""

from __future__ import annotations

from typing import Any

VOCABULARY_SIZE = 64
IMAGE, VIDEO = 63, 62
PAD, BEGIN, END = 0, 1, 2


def text(**changes: Any) -> dict[str, Any]:
    """Return the settings of a language model with four layers and a vocabulary of 64."""
    return {
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": PAD,
        "bos_token_id": BEGIN,
        "eos_token_id": END,
    } | changes


def vision(**changes: Any) -> dict[str, Any]:
    """Return the settings of a vision tower with three layers and 4 x 4 patches an image."""
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    } | changes
