"""The interface of text towers, with which query-aware strategies judge tokens in CLIP's or SigLIP's own space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class TextTower(Protocol):
    """A text tower whose embeddings share a space with those of the model's vision tower, as in CLIP and SigLIP."""

    space: str
    """The name of the space in the ledger."""
    sign: int
    """+1 if a larger similarity means more relevant; -1 if a smaller one does, as in some releases of CLIP."""
    warning: str | None
    """A note for the ledger if the sign is a guess; None if it is known."""

    @property
    def weights(self) -> Sequence[Tensor]:
        """The tensors that text embeddings depend on; while none of them changes, cached embeddings stay valid."""
        ...

    def patches(self, selected: Tensor) -> Tensor:
        """Return the output of the vision tower's selected layer `[..., c]` projected into the space, `[..., e]`."""
        ...

    def text(self, question: str) -> Tensor:
        """Return the embeddings of a question, `[windows, e]`; no window for an empty question."""
        ...
