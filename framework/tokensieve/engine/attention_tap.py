"""The attention tap: read queries and keys without changing how attention is computed.

Every attention module asks its config which implementation to use and calls it with the queries,
keys and mask that attention really sees: after norms, rotary positions and the cache. For the one
module that is tapped, the config is a copy that names an implementation of ours; ours looks, then
calls the real one.
"""

from __future__ import annotations

import copy
import sys
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokensieve.engine import cache as caches
from tokensieve.engine.installation import Gate, Installation, lock, make_copies_plain
from tokensieve.engine.sessions import PerThread
from tokensieve.errors import RefusedError

_WEIGHTS = 2**24
"""No more attention weights than this are held at once, where many rows are recomputed."""


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """The arguments that an attention module passes to its attention implementation.

    Attributes:
        query: `[batch, heads, n, d]`.
        key: `[batch, key heads, n, d]`.
        mask: `[batch or 1, heads or 1, at least n, at least n]`, bool or added to scores; or which places are real,
            `[batch, at least n]`; or none.
        scaling: what scores are multiplied by.
        causal: whether, where there is no mask, a place sees none after it.
    """

    query: Tensor
    key: Tensor
    mask: Tensor | None
    scaling: float
    causal: bool = False

    def part(self, step: int, length: int) -> AttentionCall:
        """Return every `step`-th row, cut to its first `length` places."""
        mask = self.mask if self.mask is None or len(self.mask) == 1 else self.mask[::step]
        query, key = self.query[::step, :, :length], self.key[::step, :, :length]
        return AttentionCall(query, key, mask, self.scaling, self.causal)

    def pieces(self, bounds: Tensor | None) -> list[AttentionCall]:
        """Return packed sequences one by one; `bounds` `[sequences + 1]` are the cumulative lengths."""
        if bounds is None:
            return [self]
        sizes = bounds.diff().tolist()
        parts = zip(self.query.split(sizes, dim=2), self.key.split(sizes, dim=2), strict=True)
        return [AttentionCall(query, key, None, self.scaling, self.causal) for query, key in parts]

    def rows(self, places: Tensor) -> Tensor:
        """Return softmaxed attention, float32 `[batch, heads, c, n]`, of the queries at `places` `[batch, c]`."""
        batch, heads, n, width = self.query.shape
        lines = places[:, None, :, None]
        query = self.query.gather(2, lines.expand(-1, heads, -1, width)).float()
        # Heads that share a key stand side by side.
        shared = query.reshape(batch, self.key.shape[1], -1, width)
        scores = (shared @ self.key.float().transpose(2, 3)).reshape(batch, heads, -1, n) * self.scaling
        line = self._seen(lines)
        if line is None:
            late = torch.arange(n, device=places.device) > lines
            return (scores.masked_fill(late, -torch.inf) if self.causal else scores).softmax(dim=-1)
        scores = scores.masked_fill(~line, -torch.inf) if line.dtype == torch.bool else scores + line.float()
        return scores.softmax(dim=-1)

    def mean(self, places: Tensor) -> Tensor:
        """Return the mean over heads of the rows at `places` `[batch, c]`, `[batch, c, n]`."""
        parts = places.split(self._block(), dim=1)
        return torch.cat([self.rows(part).mean(dim=1) for part in parts], dim=1)

    def received(self) -> Tensor:
        """Return the mean attention that each place receives, float32 `[batch, heads, n]`.

        With a mask, the mean is over the places that may look at it, without those that may not
        even look at themselves: they are padding. What nobody may look at receives nothing.
        """
        batch, heads, n, _ = self.query.shape
        total = self.query.new_zeros(batch, heads, n, dtype=torch.float32)
        lookers = total.new_zeros(batch, 1, n)
        for places in torch.arange(n, device=total.device).expand(batch, -1).split(self._block(), dim=1):
            weights = self.rows(places)
            line = self._seen(places[:, None, :, None])
            if line is None:
                total, lookers = total + weights.sum(dim=2), lookers + weights.shape[2]
                continue
            line = line[:, :1]
            seen = line if line.dtype == torch.bool else line > torch.finfo(line.dtype).min / 2
            own = seen.gather(3, places[:, None, :, None]).float()
            total, lookers = total + (weights * own).sum(dim=2), lookers + (seen * own).sum(dim=2)
        return total / lookers.clamp(min=1)

    def _seen(self, lines: Tensor) -> Tensor | None:
        """Return the mask's rows at `lines` `[batch, 1, c, 1]`, if there is one."""
        if self.mask is None:
            return None
        n = self.query.shape[2]
        if self.mask.ndim == 2:
            # FlashAttention takes which places are real, and is causal by itself.
            real = self.mask[:, None, None, :n].bool().expand(len(lines), -1, lines.shape[2], -1)
            return real & (torch.arange(n, device=lines.device) <= lines) if self.causal else real
        mask = self.mask[..., :n].expand(len(lines), -1, -1, -1)
        return mask.gather(2, lines.expand(-1, mask.shape[1], -1, n))

    def _block(self) -> int:
        batch, heads, n, _ = self.query.shape
        return max(1, _WEIGHTS // max(1, batch * heads * n))


class AttentionTap(ABC):
    """An observer of the calls of one attention module.

    Attributes:
        armed: whether to look.
        mute: whether looking is all, and attention itself is not computed.
    """

    armed = PerThread(lambda: True)
    mute = PerThread(lambda: False)

    @abstractmethod
    def look(self, call: AttentionCall, bounds: Tensor | None) -> None:
        """Observe a call; `bounds` are the cumulative lengths of packed sequences, or none."""


class PromptTap(AttentionTap):
    """Keeps queries and keys of a decoder layer's attention during the prefill.

    Attributes:
        call: the arguments of the last call; its keys end where its queries do.
        given: the arguments of the attention module itself, to call it once more.
    """

    armed = PerThread(lambda: False)
    call: PerThread[AttentionCall | None] = PerThread(lambda: None)
    given: PerThread[tuple[tuple[Any, ...], dict[str, Any]] | None] = PerThread(lambda: None)

    def clear(self) -> None:
        """Forget the call, and observe none until armed again."""
        self.armed = False
        self.call = self.given = None

    def look(self, call: AttentionCall, bounds: Tensor | None) -> None:
        """Remember the call."""
        # A static cache hands over its whole length.
        key = call.key[:, :, : call.query.shape[2]].detach()
        self.call = AttentionCall(call.query.detach(), key, call.mask, call.scaling, call.causal)

    def remember(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Remember what the module is called with."""
        if self.armed and not self.mute:
            self.given = args, kwargs

    @torch.no_grad()
    def content(self, attention: nn.Module) -> AttentionCall:
        """Return queries and keys before rotary positions, by calling the module once more.

        It is called with positions that turn nothing, without the cache, and computes no attention.

        Raises:
            RefusedError: if it takes no rotary positions, or does not get as far as attention.
        """
        args, kwargs = self._given(attention, "decoder_attention instead of decoder_content")
        cos, sin = kwargs["position_embeddings"]
        still = {"position_embeddings": (torch.ones_like(cos), torch.zeros_like(sin))}
        seen, self.call, self.mute = self.call, None, True
        try:
            # Not by calling the module: hooks that record attention must not see this.
            attention.forward(*args, **caches.without_cache(kwargs | still))
            call = self._called(attention)
        finally:
            self.call, self.mute = seen, False
        return call

    def position_scores(self, attention: nn.Module, step: int, length: int) -> Tensor:
        """Return the scores that rotary positions alone give, float32 `[rows or 1, length, length]`.

        That is the product of two vectors of ones, each turned to its position. A pair of dimensions turned by two
        angles makes 2 cos(a - b), in which order the pairs may ever stand; what is not turned makes 1 a dimension.

        Args:
            attention: the tapped module.
            step: every so many rows are taken.
            length: how many places are taken.

        Raises:
            RefusedError: if the module takes no rotary positions.
        """
        _, kwargs = self._given(attention, "decoder_text instead of decoder_text_heads")
        cos, sin = (x.detach()[:: step if len(x) > 1 else 1, :length].float() for x in kwargs["position_embeddings"])
        call = self._called(attention)
        still = call.query.shape[-1] - cos.shape[-1]
        scores: Tensor = (cos @ cos.mT + sin @ sin.mT + still) * call.scaling
        return scores

    def _given(self, attention: nn.Module, way_out: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self.given is None or "position_embeddings" not in self.given[1]:
            raise RefusedError(
                f"{type(attention).__name__} is called without position_embeddings, so what it is without them "
                f"cannot be had; use {way_out}"
            )
        return self.given

    def _called(self, attention: nn.Module) -> AttentionCall:
        if self.call is None:
            raise RefusedError(f"{type(attention).__name__} computes no attention when called again")
        return self.call


def install(installation: Installation, attention: nn.Module, tap: AttentionTap) -> None:
    """Put a tap on an attention module until the installation is removed.

    Raises:
        RefusedError: if the module does not choose its implementation by its config.
    """
    entry = installation.gate, tap
    make_copies_plain(attention, installation)
    installation.later(partial(_take_out, attention, entry))
    with lock:
        before = _point_of(attention)
        point = before or _TapPoint(attention)
        point.taps.append(entry)
        if before is None:
            _points[attention] = weakref.ref(point)
            point.connect()


_PREFIX = "tokensieve_tap_"


def _name(attention: nn.Module) -> str:
    return f"{_PREFIX}{id(attention)}"


def is_tap_of(model: nn.Module, name: str) -> bool | None:
    """Return whether a registered attention taps a module of the model; none where it is no tap."""
    return any(_name(module) == name for module in model.modules()) if name.startswith(_PREFIX) else None


class _TapPoint:
    """The place in an attention module where taps of several installations look at its calls.

    Only callers for whom a tap is in force see the name of the function that is registered: so it can go when the last
    tap leaves, while others call the module.

    Attributes:
        taps: with their gates.
        computing: whether the module's own implementation is running, which may ask for its name.
    """

    computing = PerThread(lambda: False)

    def __init__(self, attention: nn.Module) -> None:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

        config: Any = getattr(attention, "config", None)
        implementation = getattr(config, "_attn_implementation", None)
        if config is None or implementation is None:
            raise RefusedError(
                f"{type(attention).__name__} does not choose its attention by a config; it cannot be tapped"
            )
        self.taps: list[tuple[Gate, AttentionTap]] = []
        self._attention = weakref.ref(attention)
        # Attention modules name their own eager function beside them.
        eager: Any = getattr(sys.modules[type(attention).__module__], "eager_attention_forward", None)
        self._find = partial(ALL_ATTENTION_FUNCTIONS.get_interface, default=eager)
        self._interface = AttentionInterface
        self._config = config
        # One name per module; registering a function is the library's own extension point.
        self.name = _name(attention)
        self._function = partial(_tapped, weakref.ref(self))
        self._unregister = partial(_unregister, AttentionInterface._global_mapping, self.name, self._function)

    def connect(self) -> None:
        """Let the module call the taps."""
        attention = self._attention()
        if attention is not None:
            # Where the model is dropped while a prune is installed in it, nobody disconnects.
            weakref.finalize(self, self._unregister)
            self._interface.register(self.name, self._function)
            vars(attention)["config"] = _tapped_config(self._config, self)

    def disconnect(self) -> None:
        """Give the module its own config again."""
        attention = self._attention()
        if attention is not None:
            vars(attention)["config"] = self._config
        # Not by calling the finalizer: it does nothing when it is called again after an interrupt.
        self._unregister()

    def in_force(self) -> bool:
        """Return whether a tap is in force for the caller."""
        return any(gate() for gate, _ in list(self.taps))

    def real(self) -> Callable[..., Any]:
        """Return the implementation that the module's own config names."""
        found: Callable[..., Any] = self._find(self._config._attn_implementation)
        return found

    def taps_of(self, module: nn.Module) -> list[AttentionTap]:
        """Return the taps that are in force for a call of the module: none for a copy of it."""
        return [tap for gate, tap in list(self.taps) if gate()] if module is self._attention() else []


def _unregister(registered: MutableMapping[str, Any], name: str, function: Callable[..., Any]) -> None:
    # A later module may have the number of one that is gone, and so its name.
    if registered.get(name) is function:
        registered.pop(name, None)


# The module's config holds the point, whose taps hold the model: it is to be freed when it is dropped.
_points: weakref.WeakKeyDictionary[nn.Module, weakref.ref[_TapPoint]] = weakref.WeakKeyDictionary()


def _point_of(attention: nn.Module) -> _TapPoint | None:
    reference = _points.get(attention)
    return None if reference is None else reference()


def _take_out(attention: nn.Module, entry: tuple[Gate, AttentionTap]) -> None:
    point = _point_of(attention)
    if point is not None and any(one is entry for one in point.taps):
        point.taps = [one for one in point.taps if one is not entry]
    if point is not None and not point.taps:
        point.disconnect()
        _points.pop(attention, None)


class _TappedConfig:
    """Mixed into the class of a tapped module's config; copies of it are of the config that it stands for."""

    standing_for: ClassVar[Any]
    point: ClassVar[_TapPoint]

    @property
    def _attn_implementation(self) -> Any:
        seen = self.point.in_force() and not self.point.computing
        return self.point.name if seen else self.standing_for._attn_implementation

    @_attn_implementation.setter
    def _attn_implementation(self, value: Any) -> None:
        self.standing_for._attn_implementation = value

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.standing_for, memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.standing_for.__reduce_ex__(protocol)


def _tapped_config(config: Any, point: _TapPoint) -> Any:
    own = copy.copy(config)
    kind = type(own)
    own.__class__ = type(kind.__name__, (_TappedConfig, kind), {"standing_for": config, "point": point})
    return own


def _tapped(
    point_of: weakref.ref[_TapPoint],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> Any:
    """Show a call to the taps in force, and compute attention as the module's own implementation does."""
    point = point_of()
    if point is None:
        raise RefusedError(f"{type(module).__name__} was copied from a pruned model that is gone; copy the model whole")
    taps = point.taps_of(module)
    looking = [tap for tap in taps if tap.armed]
    if looking:
        scaling, causal = kwargs.get("scaling"), kwargs.get("is_causal")
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        causal = getattr(module, "is_causal", True) if causal is None else causal
        # Flash kernels take packed sequences at once, without a mask.
        bounds = kwargs.get("cu_seq_lens_q")
        with torch.no_grad():
            for tap in looking:
                tap.look(AttentionCall(query, key, attention_mask, scaling, bool(causal)), bounds)
    if any(tap.mute for tap in taps):
        return query.new_zeros(len(query), query.shape[2], query.shape[1], value.shape[-1]), None
    real = point.real()
    point.computing = True
    try:
        return real(module, query, key, value, attention_mask, **kwargs)
    finally:
        point.computing = False
