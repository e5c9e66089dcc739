"""`Encoder`: the blocks of a vision encoder inside which tokens can be dropped or merged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from tokensieve.stage import Stage


class Encoder(ABC):
    """A vision encoder inside which tokens can be dropped or merged.

    Attributes:
        model: the whole model.
    """

    shortens_sequence: ClassVar[bool] = True
    """Whether the sequence becomes shorter, so that the encoder returns fewer tokens. If not, blocks compute on fewer
    tokens but return all patches, because the modules that follow need every patch."""
    prunes_prompt: ClassVar[bool] = False
    """Whether every patch is one token of a language model's prompt, so that removing a patch removes that token."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """All blocks. Their first argument is the tokens, `[batch, num_prefix_tokens + n, d]`."""

    @property
    def num_prunable_blocks(self) -> int:
        """The number of leading blocks at which tokens can be removed: up to the one whose output the model reads."""
        return len(self.blocks)

    @property
    def patches_per_image(self) -> int | None:
        """The number of patches of every image that it takes, where a tile is one; None if it depends on the image."""
        return None

    @property
    @abstractmethod
    def num_prefix_tokens(self) -> int:
        """The number of class and register tokens before the patches; they always stay."""

    @abstractmethod
    def layout(self, n: int) -> Tensor:
        """Return the places of the `n` patches of an image, int64 `[n, 4]`: tile, frame, row, column.

        Raises:
            RefusedError: if the number of patches does not say where they are.
        """

    @property
    def patch_embedding(self) -> nn.Module | None:
        """The module whose output has the rows and columns of this call's patches; None if `layout` knows them."""
        return None

    def patch_grid(self, embedded: Tensor) -> tuple[int, int]:
        """Return the rows and columns of patches, from the output of `patch_embedding`: `[batch, d, rows, columns]`."""
        return embedded.shape[-2], embedded.shape[-1]

    @property
    def refused_methods(self) -> tuple[str, ...]:
        """Methods of the model that need the full grid of patches; they are refused while tokens are dropped."""
        return ()

    # Tokens are merged between the two parts of a block, its attention and its MLP.

    @property
    def separates_mlp(self) -> bool:
        """Whether every block is an attention and then an MLP, each with a residual connection."""
        return True

    @abstractmethod
    def attention_input(self, block: int, x: Tensor) -> Tensor:
        """Return the input of a block's attention, from the block's input `x` `[batch, n, d]`."""

    @abstractmethod
    def attention_block(self, block: int, x: Tensor, bias: Tensor | None, kwargs: dict[str, Any]) -> Tensor:
        """Return the block's input plus its attention, `[batch, n, d]`.

        Args:
            block: the number of the block.
            x: `[batch, n, d]`, the block's input.
            bias: `[batch, 1, n, n]`, added to the attention logits, or None.
            kwargs: the keyword arguments with which the block was called.
        """

    @abstractmethod
    def mlp_block(self, block: int, x: Tensor) -> Tensor:
        """Return `x` plus the output of the block's MLP, `[batch, n, d]`."""

    @abstractmethod
    def attention(self, block: int) -> nn.Module:
        """Return the attention module of a block."""

    @abstractmethod
    def attention_width(self, block: int) -> int:
        """Return the width of all attention heads of a block together: number of heads times head dimension."""

    @abstractmethod
    def key_projection(self, block: int) -> nn.Module:
        """Return the module of a block that computes the keys, alone or with queries and values."""

    @abstractmethod
    def mean_keys(self, block: int, projected: Tensor) -> Tensor:
        """Return the mean over heads of the keys, `[batch, n, d]`, from the output of `key_projection`."""

    def refusals(self, stage: Stage) -> list[str]:
        """Return the reasons why this model cannot run the stage; an empty list if it can."""
        reasons = []
        if stage.keep.auto:
            reasons.append("inside a vision encoder all images keep equally many tokens; give a budget, not auto")
        if stage.keep.mean:
            reasons.append(
                "inside a vision encoder all images keep equally many tokens; a mean is shared at decoder sites"
            )
        if stage.per != "image":
            reasons.append(
                f"inside a vision encoder budgets are counted for each picture or tile that it takes; leave out per: "
                f"{stage.per}"
            )
        return reasons
