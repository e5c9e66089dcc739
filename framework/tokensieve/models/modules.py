"""Finding a model's modules by name."""

from __future__ import annotations

from torch import nn

from tokensieve.errors import RefusedError


def _module(parent: nn.Module, name: str) -> nn.Module:
    child = getattr(parent, name, None)
    if not isinstance(child, nn.Module):
        raise RefusedError(f"{type(parent).__name__} has no module '{name}'; this adapter does not fit the model")
    return child
