"""Counted FLOPs of a language model's prefill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class LayerCost:
    """What a decoder layer costs.

    Attributes:
        weights: parameters of its linear maps, each used once per token.
        width: width of all query heads together.
    """

    weights: int
    width: int

    @classmethod
    def of(cls, layer: nn.Module, config: Any) -> LayerCost:
        """Read the cost off a layer and its text config."""
        heads = int(config.num_attention_heads)
        head = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        linear = sum(m.weight.numel() for m in layer.modules() if isinstance(m, nn.Linear))
        return cls(linear, heads * head)

    def flops(self, n: int) -> int:
        """Count the FLOPs of `n` tokens: linear maps, then scores and values of full n x n attention."""
        return 2 * n * self.weights + 4 * n * n * self.width


def prefill_flops(layers: Sequence[LayerCost], lengths: Sequence[int]) -> int:
    """Count the FLOPs of a prefill with `lengths[i]` tokens in layer i.

    A multiply-add is two FLOPs and attention is counted in full, as torch's own counter does. The
    head, norms and the vision tower are not in it.
    """
    return sum(layer.flops(n) for layer, n in zip(layers, lengths, strict=True))
