"""Looking up a submodule by name, with an error that says that the adapter does not fit the model."""

from __future__ import annotations

from torch import nn

from tokensieve.errors import RefusedError


def get_module(parent: nn.Module, name: str) -> nn.Module:
    """Return the submodule of `parent` with this name.

    Raises:
        RefusedError: if there is none.
    """
    child = getattr(parent, name, None)
    if not isinstance(child, nn.Module):
        raise RefusedError(f"{type(parent).__name__} has no module '{name}'; this adapter does not fit the model")
    return child
