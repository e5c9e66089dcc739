"""Matching a model by its config, without importing its class."""

from __future__ import annotations

from torch import nn


def is_model_type(model: nn.Module, *types: str) -> bool:
    """Tell whether a model's config is of one of the types, and the model answers in words."""
    known = getattr(getattr(model, "config", None), "model_type", None) in types
    return known and hasattr(model, "generate")
