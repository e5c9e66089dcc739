"""The attention tap: read queries and keys without changing how attention is computed.

Every attention module asks its config which implementation to use and calls it with the queries,
keys and mask that attention really sees: after norms, rotary positions and the cache. For the one
module that is tapped, the config is a copy that names an implementation of ours; ours looks, then
calls the real one.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tokensieve.engine.installation import Installation
from tokensieve.errors import RefusedError


class Tap:
    """What the last call of an attention module saw.

    Attributes:
        armed: whether to look.
        last: the place of the prompt's last query, counted from the end.
        row: softmaxed attention of that query, float32 `[batch, heads, keys]`.
        keys: `[batch, key heads, keys, d]`.
    """

    def __init__(self) -> None:
        self.armed = False
        self.last = -1
        self.row: Tensor | None = None
        self.keys: Tensor | None = None

    def clear(self) -> None:
        """Forget, and do not look until armed again."""
        self.armed = False
        self.row = self.keys = None

    def look(self, module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> None:
        """Recompute the one row that is needed. Taps look at prompts only, so keys end where queries do."""
        # A static cache hands over its whole length.
        key = key[:, :, : query.shape[2]]
        groups = query.shape[1] // key.shape[1]
        repeated = key.repeat_interleave(groups, dim=1) if groups > 1 else key
        at = query.shape[2] + self.last
        scores = (query[:, :, at : at + 1].float() @ repeated.float().transpose(2, 3)) * scaling
        if mask is not None:
            line = mask[:, :, at : at + 1, : key.shape[2]]
            scores = scores.masked_fill(~line, -torch.inf) if line.dtype == torch.bool else scores + line.float()
        elif self.last != -1:
            scores[..., at + 1 :] = -torch.inf
        self.row = scores.softmax(dim=-1)[:, :, 0]
        self.keys = key


class VisionTap(Tap):
    """What the last call of a vision layer's attention saw, of all pictures at once.

    Attributes:
        row: attention of the class token to each patch or, where there is none, the mean attention a
            patch receives; float32 `[pictures, patches, heads]`.
        keys: mean over heads, `[pictures, patches, d]`.
    """

    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.prefix = prefix
        self.armed = True

    def clear(self) -> None:
        """Forget, and look again."""
        self.row = self.keys = None

    def look(self, module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> None:
        """Recompute softmaxed attention, picture by picture, and keep what tokens may be judged by."""
        if mask is not None:
            raise RefusedError("vision towers with a mask are not supported by strategies that read their attention")
        rows = []
        for queries, keys in zip(query, key, strict=True):
            asking = queries[:, : 1 if self.prefix else None]
            scores = (asking.float() @ keys.float().transpose(1, 2)) * scaling
            rows.append(scores.softmax(dim=-1).mean(dim=1)[:, self.prefix :].transpose(0, 1))
        self.row = torch.stack(rows)
        self.keys = key[:, :, self.prefix :].mean(dim=1)


def install(installation: Installation, attention: nn.Module, tap: Tap) -> None:
    """Tap an attention module until the installation is removed.

    Raises:
        RefusedError: if the module does not choose its implementation by its config.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

    config: Any = getattr(attention, "config", None)
    implementation = getattr(config, "_attn_implementation", None)
    if config is None or implementation is None:
        raise RefusedError(f"{type(attention).__name__} does not choose its attention by a config; it cannot be tapped")
    # Attention modules name their own eager function beside them.
    eager: Any = getattr(sys.modules[type(attention).__module__], "eager_attention_forward", None)
    real: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager)

    @torch.no_grad()
    def glance(module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> None:
        tap.look(module, query, key, mask, scaling)

    def tapped(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> Any:
        if tap.armed:
            scaling = kwargs.get("scaling")
            glance(module, query, key, attention_mask, query.shape[-1] ** -0.5 if scaling is None else scaling)
        return real(module, query, key, value, attention_mask, **kwargs)

    # One name per tap; registering a function is the library's own extension point.
    name = f"tokensieve_tap_{id(tap)}"
    AttentionInterface.register(name, tapped)
    installation.later(lambda: AttentionInterface._global_mapping.pop(name, None))
    own = copy.copy(config)
    object.__setattr__(own, "_attn_implementation_internal", name)
    installation.override(attention, "config", own)
