"""A vision encoder whose blocks can carry fewer tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from tokensieve.stage import Stage


class Encoder(ABC):
    """A vision encoder whose blocks can carry fewer tokens."""

    shortens_sequence: ClassVar[bool] = True
    """Whether the model goes on with a shorter sequence, and gives fewer tokens in the end. Where what follows needs
    every patch, blocks compute on fewer and hand on all."""
    prunes_prompt: ClassVar[bool] = False
    """Whether a language model follows of which every patch is one token, and leaves with it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """All blocks; their first argument is the tokens, `[batch, prefix + n, d]`."""

    @property
    def depth(self) -> int:
        """How many of the blocks tokens can leave at: those before what is read of the encoder."""
        return len(self.blocks)

    @property
    @abstractmethod
    def prefix(self) -> int:
        """How many leading tokens are no patches (class and register tokens); they always stay."""

    @abstractmethod
    def layout(self, n: int) -> Tensor:
        """Return where the `n` patches of an image are, int64 `[n, 4]`: tile, frame, row, column."""

    @property
    def refused_methods(self) -> tuple[str, ...]:
        """Methods of the model that assume a full grid and are refused while tokens are dropped."""
        return ()

    # A block in two parts, between which tokens are merged

    @property
    def separates_mlp(self) -> bool:
        """Whether every block is an attention and then an MLP, each added to its input, as what follows here says."""
        return True

    @abstractmethod
    def attention_input(self, block: int, x: Tensor) -> Tensor:
        """Return what a block's attention takes of the tokens `x` `[batch, n, d]` that enter it."""

    @abstractmethod
    def attention_block(self, block: int, x: Tensor, bias: Tensor | None, kwargs: dict[str, Any]) -> Tensor:
        """Return tokens plus their attention.

        Args:
            block: the number of the block.
            x: `[batch, n, d]`, as they enter the block.
            bias: added to the logits of attention, `[batch, 1, n, n]`, or none.
            kwargs: with which the block was called.
        """

    @abstractmethod
    def mlp_block(self, block: int, x: Tensor) -> Tensor:
        """Return tokens plus what the block's MLP makes of them, `[batch, n, d]`."""

    @abstractmethod
    def attention(self, block: int) -> nn.Module:
        """Return the attention module of a block."""

    @abstractmethod
    def width(self, block: int) -> int:
        """Return the width of all heads of a block together."""

    @abstractmethod
    def key_projection(self, block: int) -> nn.Module:
        """The module of a block that computes keys, perhaps among other things."""

    @abstractmethod
    def keys(self, block: int, projected: Tensor) -> Tensor:
        """Return the mean of all heads' keys `[batch, n, d]` from what the projection gave."""

    def refuses(self, stage: Stage) -> list[str]:
        """Say why this model cannot be pruned at the stage; nothing if it can."""
        reasons = []
        if stage.keep.auto:
            reasons.append("inside a vision encoder all images keep equally many tokens; give a budget, not auto")
        if stage.per != "image":
            reasons.append(
                f"inside a vision encoder budgets are counted for each picture or tile that it takes; leave out per: "
                f"{stage.per}"
            )
        return reasons
