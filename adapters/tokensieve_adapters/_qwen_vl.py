"""What Qwen2.5-VL and Qwen3-VL share with their kin that hear: towers with windows, and deepstack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokensieve.models.decoder import Modality
from tokensieve_adapters import _tiny
from tokensieve_adapters._mrope import VISION_TOKENS, MropeDecoder, PackedMropeTower

WINDOWS: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 32,
    "out_hidden_size": 48,
    "intermediate_size": 64,
    "num_heads": 4,
    "patch_size": 4,
    "window_size": 16,
    "fullatt_block_indexes": [1],
}
"""Settings of a small vision tower with windows."""


class WindowedDecoder(MropeDecoder):
    """A vision tower with windowed attention in most layers, and full attention over an image or frame in some."""

    @property
    def selected_vision_layer(self) -> int:
        """The deepest layer with full attention; in all releases that is the last layer."""
        return int(max(self.config.vision_config.fullatt_block_indexes))

    @property
    def middle_vision_layer(self) -> int:
        """The layer with full attention that is nearest to the middle: 15 of 32, counted from 0: the sixteenth."""
        usual = len(self.vision_layers) // 2 - 1
        whole = [int(layer) for layer in self.config.vision_config.fullatt_block_indexes]
        return min(whole, key=lambda layer: abs(layer - usual))

    def patches_to_tokens(self, values: Tensor, request: Mapping[str, Any], modality: str = "image") -> Tensor:
        """Return the mean over each square; the tower holds squares window by window, row by row inside a window."""
        order, begin = [], 0
        for grid in self.layout(modality, None, request):
            # A stable sort keeps the squares of a window row by row.
            order.append(begin + _windows(grid, self.config.vision_config).sort(stable=True).indices)
            begin += len(grid)
        squares = super().patches_to_tokens(values, request, modality)
        in_prompt_order = torch.empty_like(squares)
        in_prompt_order[torch.cat(order).to(squares.device)] = squares
        return in_prompt_order


class WindowedTower(PackedMropeTower):
    """A tower that holds units window by window. What is left of a window is a window."""

    @property
    def windowed_blocks(self) -> frozenset[int]:
        """All but those with full attention."""
        return frozenset(range(len(self.blocks))) - set(self.decoder.config.vision_config.fullatt_block_indexes)

    def windows(self, places: Tensor) -> Tensor:
        """Return the windows by frame, row of windows and column of windows."""
        return _windows(places, self.decoder.config.vision_config)

    def arrangement(self, modality: Modality, given: Mapping[str, Any], kept: Tensor) -> dict[str, Tensor]:
        """Return the order of the kept units by window, and where windows end among their patches."""
        begin, found = 0, []
        for places in self.layout(modality, given):
            found.append(begin + self.windows(places))
            begin = int(found[-1].max()) + 1
        number = torch.cat(found).to(kept.device)[kept]
        sizes = number.unique(return_counts=True)[1] * self.patches_per_unit
        # A stable sort keeps the units of a window row by row.
        order = number.sort(stable=True).indices
        ends = torch.nn.functional.pad(sizes.cumsum(0), (1, 0)).to(torch.int32)
        return {"window_index": order, "cu_window_seqlens": ends}

    def patches_to_units(self, values: Tensor, modality: Modality, request: Mapping[str, Any], kept: Tensor) -> Tensor:
        """Return the mean over each square, in the order of the prompt."""
        squares = values.reshape(-1, self.patches_per_unit, values.shape[-1]).mean(dim=1)
        order = self.arrangement(modality, request, kept)["window_index"].to(squares.device)
        return torch.empty_like(squares).index_copy(0, order, squares)


def _windows(places: Tensor, vision: Any) -> Tensor:
    """Return the window of each token, int64 `[tokens]`, from places `[tokens, 4]` and the config of the tower."""
    side = vision.window_size // vision.spatial_merge_size // vision.patch_size
    _, frame, row, column = places.T
    window = torch.stack([frame, row // side, column // side], dim=1)
    number: Tensor = window.unique(dim=0, return_inverse=True)[1]
    return number


class DeepstackDecoder(MropeDecoder):
    """Inside the language model, tokens can be removed after the last layer to which vision features are added."""

    @property
    def first_prunable_layer(self) -> int:
        """The first layer after deepstack."""
        return max(1, len(self.config.vision_config.deepstack_visual_indexes))


def deepstack_settings(**text: Any) -> dict[str, Any]:
    """Return the settings of a small model with deepstack features of two vision layers.

    Args:
        **text: more settings of its language model.
    """
    rope = {"rope_type": "default", "mrope_section": [2, 2, 2], "mrope_interleaved": True, "rope_theta": 10000.0}
    return {
        "text_config": _tiny.text(rope_parameters=rope, head_dim=12, **text),
        "vision_config": {
            "depth": 3,
            "hidden_size": 32,
            "out_hidden_size": 48,
            "intermediate_size": 64,
            "num_heads": 4,
            "patch_size": 4,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        **VISION_TOKENS,
    }
