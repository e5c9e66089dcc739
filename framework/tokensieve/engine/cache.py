"""The state that a pruned prompt leaves on its key-value cache.

Generation code asks a cache how long it is, both to know how much of a conversation it has seen
and to number positions; those must count the tokens that were dropped. Masks are sized from the
cache's layers, which hold what is really there. So a pruned cache answers with the unpruned length
and offsets queries by the real one.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tokensieve.errors import RefusedError

_STATE = "tokensieve_state"
NAMES = ("cache", "past_key_values")
"""What transformers calls a cache, from 5.24 on and before."""


@dataclass(eq=False)
class LayerState:
    """The part of the prompt that the cache holds in a block and all deeper ones.

    Attributes:
        block: the first such layer.
        index: int64 `[rows, kept]`, places in the prompt as layer 0 holds it.
        mask: bool `[rows, kept]`, which of them are real tokens.
        padded: whether any is not.
        shift: int64 `[rows]`, by how much positions were closed up, or none.
    """

    block: int
    index: Tensor
    mask: Tensor
    padded: bool
    shift: Tensor | None


@dataclass(eq=False)
class CacheState:
    """The state of a pruned cache: what decode steps need to know about the prompt.

    Attributes:
        unpruned: length of the prompt as the caller sees it.
        mask: bool `[rows, pruned]`, the prompt as layer 0 holds it.
        padded: whether the mask has a false.
        shift: int64 `[rows]`, or `[axes, rows]`, by how much positions were closed up, or none.
        end: int64 `[rows]`, the position of text that would have followed the unpruned prompt.
        real: bool `[rows, unpruned]`, which places of the unpruned prompt are no padding.
        layers: what deeper layers hold, by rising block.
        expected: whether a call in progress knows of this; any other would misread the cache.
    """

    unpruned: int
    mask: Tensor
    padded: bool
    shift: Tensor | None
    end: Tensor
    real: Tensor
    layers: list[LayerState] = field(default_factory=list)
    expected: bool = False

    @property
    def dropped(self) -> int:
        """The number of places of the prompt that layer 0 does not hold."""
        return self.unpruned - self.mask.shape[1]

    def without(self, drafted: int) -> CacheState:
        """Return the state without the last, drafted tokens, which assisted decoding may take back."""
        if not drafted:
            return self
        layers = [replace(one, index=one.index[:, :-drafted], mask=one.mask[:, :-drafted]) for one in self.layers]
        return replace(
            self,
            unpruned=self.unpruned - drafted,
            mask=self.mask[:, :-drafted],
            end=self.end - drafted,
            real=self.real[:, :-drafted],
            layers=layers,
        )


class _PrunedCacheMixin:
    """Makes a cache answer with the unpruned length; mixed into the class of a pruned cache."""

    def get_seq_length(self, layer_idx: int = 0) -> Any:
        """Return the unpruned length, by which callers count."""
        length = super().get_seq_length(layer_idx)  # type: ignore[misc]
        state: CacheState | None = state_of(self)
        held = state.mask.shape[1] if state is not None else 0
        for layer in state.layers if state is not None else ():
            if layer_idx >= layer.block:
                held = layer.index.shape[1]
        return length + (state.unpruned - held if state is not None else 0)

    def get_query_offset(self, layer_idx: int = 0) -> Any:
        """Return the length that the layer really holds, by which masks are made."""
        return super().get_seq_length(layer_idx)  # type: ignore[misc]

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Add new keys and values of a layer; refused outside of `prune`."""
        state = state_of(self)
        if state is not None and not state.expected:
            raise RefusedError(
                "this cache holds a pruned prompt, and the model is not pruned any more; go on inside "
                "`with prune(...)`, or start again without the cache"
            )
        return super().update(*args, **kwargs)  # type: ignore[misc]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle and copy what the prompt left, too; a copy is refused outside of `prune` as this is."""
        return _empty_pruned, (type(self).__mro__[2],), dict(vars(self))

    def reset(self) -> None:
        """Empty the cache, which then is an ordinary one."""
        super().reset()  # type: ignore[misc]
        release(self)


def cache_name(model: Any) -> str:
    """Return the name of the cache among the arguments of a model's forward, which transformers renamed in 5.24."""
    known = inspect.signature(model.forward).parameters
    return next((name for name in NAMES if name in known), NAMES[-1])


def cache_argument(arguments: Mapping[str, Any]) -> Any:
    """Return the cache among a call's arguments or a model's named outputs, or none."""
    return next((arguments[name] for name in NAMES if arguments.get(name) is not None), None)


def without_cache(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call's arguments without its cache."""
    return {name: None if name in NAMES else value for name, value in arguments.items()}


def returned_cache(output: Any) -> Any:
    """Return the cache in a model's output, or none."""
    if isinstance(output, tuple):
        return next((item for item in output if hasattr(item, "get_seq_length")), None)
    return cache_argument(output) if isinstance(output, Mapping) else None


def refuse_unknown(cache: Any) -> None:
    """Refuse a cache of a kind that pruning was not tested with."""
    if cache is None:
        return
    from transformers import DynamicCache, StaticCache

    if not isinstance(cache, (DynamicCache, StaticCache)) or getattr(cache, "offloading", False):
        raise RefusedError(
            f"the cache is a {type(cache).__name__}, which is not supported under prune as it is; pass a plain "
            "DynamicCache or StaticCache, or none"
        )


def attach(cache: Any, state: CacheState) -> None:
    """Put the state on a cache."""
    setattr(cache, _STATE, state)
    kind = type(cache)
    if not issubclass(kind, _PrunedCacheMixin):
        cache.__class__ = _pruned_class(kind)


_pruned_classes: dict[type[Any], type[Any]] = {}


def _pruned_class(kind: type[Any]) -> type[Any]:
    return _pruned_classes.setdefault(kind, type(kind.__name__, (_PrunedCacheMixin, kind), {}))


def _empty_pruned(kind: type[Any]) -> Any:
    return object.__new__(_pruned_class(kind))


def release(cache: Any) -> None:
    """Make a pruned cache an ordinary one again."""
    if isinstance(cache, _PrunedCacheMixin):
        cache.__class__ = type(cache).__mro__[2]
        delattr(cache, _STATE)


def state_of(cache: Any) -> CacheState | None:
    """Return the state on a cache, or none for an ordinary one."""
    state = getattr(cache, _STATE, None)
    return state if isinstance(state, CacheState) else None


def cached_length(cache: Any, layer: int = 0) -> int:
    """Return the number of places that a layer of the cache really holds."""
    length = cache.get_query_offset(layer) if isinstance(cache, _PrunedCacheMixin) else cache.get_seq_length(layer)
    return int(length)


def pad_mask(mask: Tensor, width: int) -> Tensor:
    """Append masked columns to a mask `[..., n]`, boolean or additive, up to a width."""
    missing = width - mask.shape[-1]
    if missing <= 0:
        return mask
    nothing = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    return torch.cat([mask, mask.new_full((*mask.shape[:-1], missing), nothing)], dim=-1)
