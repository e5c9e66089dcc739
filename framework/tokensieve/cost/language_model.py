"""Counted FLOPs of the prefill of a language model, from the shapes of its modules."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

CHUNK_LENGTH = 64
"""The chunk length of linear attention in transformers."""


@dataclass(frozen=True)
class LayerCost:
    """The cost of one decoder layer.

    Attributes:
        linear_parameters: parameters of the linear maps that one token uses; of experts, only those it is routed to.
        attention_width: the width of all query heads together; 0 if the layer has no attention.
        fixed_flops: FLOPs that do not depend on the number of tokens: a convolution over its padding.
        chunk_flops: FLOPs of linear attention for every chunk of `CHUNK_LENGTH` tokens, the last one rounded up.
    """

    linear_parameters: int
    attention_width: int
    fixed_flops: int = 0
    chunk_flops: int = 0

    @classmethod
    def of(cls, layer: nn.Module, config: Any) -> LayerCost:
        """Return the cost of a layer, from its modules and its text config."""
        modules = list(layer.modules())
        heads = int(config.num_attention_heads)
        # Attention modules have a head_dim if it differs between layers.
        own = [int(one.head_dim) for one in modules if hasattr(one, "head_dim")]  # type: ignore[arg-type]
        head = own[0] if own else int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        convolutions = [one for one in modules if isinstance(one, nn.Conv1d)]
        fixed = sum(2 * one.weight.numel() * (one.kernel_size[0] - 1) for one in convolutions)
        # A layer with a short convolution is recurrent and has no attention.
        width = 0 if convolutions else heads * head
        return cls(
            sum(_active_parameters(one, config) for one in modules),
            width,
            fixed,
            sum(_chunk_flops(one) for one in modules),
        )

    def flops(self, n: int) -> int:
        """Return the FLOPs for `n` tokens: linear maps, and n x n attention or linear attention."""
        return (
            2 * n * self.linear_parameters
            + 4 * n * n * self.attention_width
            + self.fixed_flops
            + -(-n // CHUNK_LENGTH) * self.chunk_flops
        )


def _active_parameters(module: nn.Module, config: Any) -> int:
    """Return the number of parameters of a module's own linear maps that one token uses."""
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        # A linear layer of any library. The size of its weight is no measure, because it may be quantised and packed.
        return int(module.in_features) * int(module.out_features)  # type: ignore[arg-type]
    own = [weight for weight in module.parameters(recurse=False) if weight.ndim > 1]
    experts = [weight for weight in own if weight.ndim > 2]
    if not own or isinstance(module, nn.Embedding):
        return 0
    if isinstance(module, nn.Conv1d):
        return module.weight.numel()
    if not experts:
        # The router of a mixture of experts is a bare matrix.
        return sum(weight.numel() for weight in own)
    # The weights of experts are stacked. Without a routing argument every expert runs on every token.
    used = len(experts[0])
    if "top_k_index" in inspect.signature(type(module).forward).parameters:
        used = int(getattr(config, "num_experts_per_tok", None) or config.top_k_experts)
    return used * sum(weight[0].numel() for weight in experts)


def _chunk_flops(module: nn.Module) -> int:
    """Return the FLOPs of the gated delta rule for one chunk, without those of solving its triangular systems."""
    if not hasattr(module, "head_k_dim") or not hasattr(module, "head_v_dim"):
        return 0
    keys, values, heads = int(module.head_k_dim), int(module.head_v_dim), int(module.num_v_heads)  # type: ignore[arg-type]
    # Inside the chunk: key-key and query-key scores, and scores times values. Then three products with the state.
    return 2 * CHUNK_LENGTH * heads * (CHUNK_LENGTH * (2 * keys + values) + 3 * keys * values)


def prefill_flops(layers: Sequence[LayerCost], lengths: Sequence[int]) -> int:
    """Return the FLOPs of a prefill with `lengths[i]` tokens in layer i.

    A multiply-add counts as two, and attention in full, as in torch's own counter. The language-modelling head, norms
    and the vision tower are not counted.
    """
    return sum(layer.flops(n) for layer, n in zip(layers, lengths, strict=True))


def flop_counter() -> FlopCounterMode:
    """Return torch's FLOP counter, extended by torch's attention on CPUs and by grouped matrix products of experts.

    torch up to 2.14 does not count these two.
    """
    # Imported here, because the module loads a compiler for GPUs.
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    def experts(tokens: Any, weights: Any, *args: Any, **kwargs: Any) -> int:
        return 2 * int(tokens[0]) * int(weights[-2]) * int(weights[-1])

    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={on_cpu: attention, torch.ops.aten._grouped_mm: experts})
