"""A text tower that shares a space with a vision tower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class TextTower(Protocol):
    """A text tower that shares a space with the model's vision tower."""

    space: str
    """What the space is called in the ledger."""
    sign: int
    """+1 where a larger similarity means more relevant, -1 where the release is turned around."""
    warning: str | None
    """What the ledger says about the sign, where it is a guess."""

    @property
    def weights(self) -> Sequence[Tensor]:
        """What texts are embedded with: while nothing of it changes, a question's vectors are the same."""
        ...

    def patches(self, selected: Tensor) -> Tensor:
        """Project the vision tower's selected layer `[..., c]` into the space, `[..., e]`."""
        ...

    def text(self, question: str) -> Tensor:
        """Embed a question, `[windows, e]`; none for an empty question."""
        ...
