"""What Qwen2.5-VL and Qwen3-VL share with their kin that hear: towers with windows, and deepstack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokensieve_adapters import _tiny
from tokensieve_adapters._mrope import VISION_TOKENS, MropeDecoder

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
        vision = self.config.vision_config
        side = vision.window_size // vision.spatial_merge_size // vision.patch_size
        order, begin = [], 0
        for grid in self.layout(modality, None, request):
            _, frame, row, column = grid.T
            window = torch.stack([frame, row // side, column // side], dim=1)
            # A stable sort keeps the squares of a window row by row.
            _, number = window.unique(dim=0, return_inverse=True)
            order.append(begin + number.sort(stable=True).indices)
            begin += len(grid)
        squares = super().patches_to_tokens(values, request, modality)
        in_prompt_order = torch.empty_like(squares)
        in_prompt_order[torch.cat(order).to(squares.device)] = squares
        return in_prompt_order


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
