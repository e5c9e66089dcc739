"""`PackedTower`: a vision tower that takes patches as one list, so that some can be left out before it."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokensieve.models.decoder import Decoder, Modality
from tokensieve.models.modules import get_module
from tokensieve.stage import Stage


def among_all(values: Tensor, kept: Tensor, total: int) -> Tensor:
    """Return values `[total, c]` of all units from those of the kept ones, `[kept, c]`; zeros for the others."""
    return values.new_zeros(total, values.shape[-1]).index_copy(0, kept.to(values.device), values)


class PackedTower(ABC):
    """A vision tower that takes the patches of all pictures as one list, and can be given fewer.

    A unit is the patches that become one visual token. A unit that a stage at `pixel.0` removes is never encoded; the
    patches of the others keep the positions that they have in their pictures, and attend to what is left of their
    picture, frame or window.

    Attributes:
        decoder: the language model that takes what the tower encodes.
    """

    num_prefix_tokens: ClassVar[int] = 0
    """The number of class and register tokens before the patches."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """All blocks."""
        return self.decoder.vision_layers

    def attention(self, block: int) -> nn.Module:
        """Return the attention module of a block."""
        return get_module(self.blocks[block], self.decoder.vision_attention_name)

    @abstractmethod
    def attention_width(self, block: int) -> int:
        """Return the width of all attention heads of a block together: number of heads times head dimension."""

    @property
    def windowed_blocks(self) -> frozenset[int]:
        """The blocks whose attention is within windows of an image or frame; none by default."""
        return frozenset()

    def windows(self, places: Tensor) -> Tensor:
        """Return the window of each unit of an image or video, int64 `[units]`; all 0 where no block has windows.

        Args:
            places: int64 `[units, 4]`: tile, frame, row, column.
        """
        return torch.zeros_like(places[:, 0])

    @property
    @abstractmethod
    def patches_per_unit(self) -> int:
        """How many patches become one visual token."""

    @abstractmethod
    def layout(self, modality: Modality, request: Mapping[str, Any]) -> list[Tensor]:
        """Return the places of the units of each image or video, before any is encoded; see `Decoder.layout`."""

    @abstractmethod
    def pixels(self, modality: Modality, request: Mapping[str, Any]) -> Tensor:
        """Return the normalised pixels of every unit, `[units, d]`, in the order of the placeholders."""

    @abstractmethod
    def packed_inputs(self, modality: Modality, given: Mapping[str, Any], kept: Tensor) -> dict[str, Any]:
        """Return the arguments that encode some units alone, each at its own place.

        Args:
            modality: the kind of visual input.
            given: the arguments that encode all units.
            kept: int64 `[kept]`, the units that are encoded, one or more, ascending.

        Returns:
            What replaces, or is added to, the arguments that were given.
        """

    def patches_to_units(self, values: Tensor, modality: Modality, request: Mapping[str, Any], kept: Tensor) -> Tensor:
        """Return values of units `[kept, c]` from values of the patches that were encoded, `[..., c]`.

        The default is for towers that hold patches in the order in which they were given.

        Args:
            values: one for each patch, in the order of the tower's layers.
            modality: the kind of visual input.
            request: the caller's arguments, with sizes and grids.
            kept: int64 `[kept]`, the units that were encoded.
        """
        return self.decoder.patches_to_tokens(values, request, modality.name)

    def spread(self, output: Any, kept: Tensor, counts: Sequence[int]) -> Any:
        """Return an encoder output for all units, with zeros for those that were not encoded.

        Args:
            output: of the kept units.
            kept: int64 `[kept]`, the units that were encoded.
            counts: how many units each image or video has.
        """

        def whole(part: Tensor) -> tuple[Tensor, ...]:
            return tuple(among_all(part, kept, sum(counts)).split_with_sizes(list(counts)))

        new = copy.copy(output)
        new.pooler_output = whole(self.decoder.projected_features(output))
        layers = getattr(output, "deepstack_features", None)
        if layers is not None:
            flat = [layer if isinstance(layer, Tensor) else torch.cat(list(layer)) for layer in layers]
            new.deepstack_features = [whole(layer) for layer in flat]
        return new

    def refusals(self, stage: Stage) -> list[str]:
        """Return the reasons why this tower cannot run a stage at `pixel.0`; an empty list if it can."""
        if stage.rest == "merge":
            return ["what is merged would have to be encoded first; before the vision tower tokens are dropped alone"]
        return []
