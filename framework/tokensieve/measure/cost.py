"""Counted FLOPs of a language model's prefill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


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


def flop_counter() -> FlopCounterMode:
    """Give torch's own counter, silent, also of the attention that torch uses on CPUs.

    Counters of torch up to 2.14 leave that out.
    """

    def attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={on_cpu: attention})
