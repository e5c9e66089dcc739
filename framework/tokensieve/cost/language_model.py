"""Counted FLOPs of a language model's prefill."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

CHUNK = 64
"""How many tokens the library's linear attention works through at a time."""


@dataclass(frozen=True)
class LayerCost:
    """What a decoder layer costs.

    Attributes:
        weights: parameters of its linear maps that a token uses, each once; of experts, those it is sent to.
        width: width of all query heads together; none where the layer does not attend.
        fixed: FLOPs whatever the number of tokens: what a convolution computes at its padding.
        chunk: FLOPs of linear attention for every `CHUNK` tokens begun.
    """

    weights: int
    width: int
    fixed: int = 0
    chunk: int = 0

    @classmethod
    def of(cls, layer: nn.Module, config: Any) -> LayerCost:
        """Read the cost off a layer and its text config."""
        modules = list(layer.modules())
        heads = int(config.num_attention_heads)
        # Attention modules say how wide their heads are, where layers differ.
        own = [int(one.head_dim) for one in modules if hasattr(one, "head_dim")]  # type: ignore[arg-type]
        head = own[0] if own else int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        convolutions = [one for one in modules if isinstance(one, nn.Conv1d)]
        fixed = sum(2 * one.weight.numel() * (one.kernel_size[0] - 1) for one in convolutions)
        # A layer with a short convolution carries its past in a state, and does not attend.
        width = 0 if convolutions else heads * head
        return cls(sum(_used(one, config) for one in modules), width, fixed, sum(_chunk(one) for one in modules))

    def flops(self, n: int) -> int:
        """Count the FLOPs of `n` tokens: maps, then full n x n attention or what stands for it."""
        return 2 * n * self.weights + 4 * n * n * self.width + self.fixed + -(-n // CHUNK) * self.chunk


def _used(module: nn.Module, config: Any) -> int:
    """Count the parameters of a module's own linear maps that a token uses."""
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        # A linear map of any library; not its weight's size, which is another where it is quantised.
        return int(module.in_features) * int(module.out_features)  # type: ignore[arg-type]
    own = [weight for weight in module.parameters(recurse=False) if weight.ndim > 1]
    experts = [weight for weight in own if weight.ndim > 2]
    if not own or isinstance(module, nn.Embedding):
        return 0
    if isinstance(module, nn.Conv1d):
        return module.weight.numel()
    if not experts:
        # The map that chooses among experts is a bare matrix.
        return sum(weight.numel() for weight in own)
    # Experts are stacked. Where they are not told which of them serve a token, all do.
    used = len(experts[0])
    if "top_k_index" in inspect.signature(type(module).forward).parameters:
        used = int(getattr(config, "num_experts_per_tok", None) or config.top_k_experts)
    return used * sum(weight[0].numel() for weight in experts)


def _chunk(module: nn.Module) -> int:
    """Count what the gated delta rule multiplies for a chunk; solving its triangular systems is not counted."""
    if not hasattr(module, "head_k_dim") or not hasattr(module, "head_v_dim"):
        return 0
    keys, values, heads = int(module.head_k_dim), int(module.head_v_dim), int(module.num_v_heads)  # type: ignore[arg-type]
    # Scores of keys and of queries within the chunk, and its values; three products with the state.
    return 2 * CHUNK * heads * (CHUNK * (2 * keys + values) + 3 * keys * values)


def prefill_flops(layers: Sequence[LayerCost], lengths: Sequence[int]) -> int:
    """Count the FLOPs of a prefill with `lengths[i]` tokens in layer i.

    A multiply-add is two FLOPs and attention is counted in full, as torch's own counter does. The
    head, norms and the vision tower are not in it.
    """
    return sum(layer.flops(n) for layer, n in zip(layers, lengths, strict=True))


def flop_counter() -> FlopCounterMode:
    """Return torch's own counter, silent, also of the attention that torch uses on CPUs, and of experts.

    Counters of torch up to 2.14 leave both out.
    """
    # Here, because it loads a compiler for GPUs.
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    def experts(tokens: Any, weights: Any, *args: Any, **kwargs: Any) -> int:
        return 2 * int(tokens[0]) * int(weights[-2]) * int(weights[-1])

    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={on_cpu: attention, torch.ops.aten._grouped_mm: experts})
