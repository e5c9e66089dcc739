"""The masks of layers that hold less of a prompt than the first one does."""

from __future__ import annotations

import torch
from torch import Tensor

from tokensieve.engine import cache as caches
from tokensieve.engine.batches import gather_mask, mask_out
from tokensieve.engine.prefill_state import PrefillState


def prompt_mask(prompt: PrefillState, mask: Tensor | None, hidden: Tensor, width: int, flat: bool) -> Tensor | None:
    """Return a layer's mask of the prompt: rows and columns of what stays, `width` columns wide.

    Args:
        prompt: what stays.
        mask: what layer 0 gets, `[rows, 1, n, keys]`, `[rows, keys]` if `flat`, or none.
        hidden: `[rows, n, d]`.
        width: how many keys the layer sees.
        flat: whether masks are `[rows, keys]`, as FlashAttention takes them.
    """
    index, filler = prompt.index.to(hidden.device), prompt.filler.to(hidden.device)
    rows, length = index.shape
    padded = prompt.state.layers[-1].padded
    # A mask `[rows, keys]` also says how much of a static cache is in use.
    if mask is None and not padded and not (flat and width > length):
        return None
    if flat:
        return ~filler if mask is None else mask.gather(1, index).bool() & ~filler
    if mask is None:
        mask = torch.ones(1, 1, length, length, dtype=torch.bool, device=hidden.device).tril()
        index = torch.arange(length, device=hidden.device).expand(rows, -1)
    return caches.pad_mask(gather_mask(mask, index, filler), width)


def step_rows(
    mask: Tensor | None, layer: caches.LayerState, hidden: Tensor, prompt: int, length: int, width: int
) -> Tensor | None:
    """Return a deeper layer's mask of a later call as FlashAttention takes it, `[rows, keys]`; see `step_mask`."""
    real = layer.mask.to(hidden.device)
    since = length - prompt + hidden.shape[1]
    if mask is None and not layer.padded and width <= real.shape[1] + since:
        return None
    new = real.new_ones(len(real), since) if mask is None else mask[:, prompt : prompt + since].bool()
    return torch.cat([real, new], dim=1)


def step_mask(
    mask: Tensor | None, layer: caches.LayerState, hidden: Tensor, prompt: int, length: int, width: int
) -> Tensor | None:
    """Return a deeper layer's mask of a later call: its columns of the prompt, then all since.

    Args:
        mask: what layer 0 gets, `[rows, 1, steps, keys]`, or none.
        layer: what this layer holds of the prompt.
        hidden: `[rows, steps, d]`.
        prompt: how much layer 0 holds of the prompt.
        length: how much layer 0 holds before this call.
        width: how many keys the layer will see.
    """
    real = layer.mask.to(hidden.device)
    rows, steps = hidden.shape[:2]
    since = length - prompt + steps
    if mask is None:
        if not layer.padded:
            return None
        line = torch.cat([real, real.new_ones(rows, since)], dim=1)
        place = torch.arange(line.shape[1], device=hidden.device)
        reach = place[-steps:].unsqueeze(1)
        return caches.pad_mask(line[:, None, None, :] & (place <= reach), width)
    new = torch.arange(prompt, prompt + since, device=hidden.device).expand(rows, -1)
    index = torch.cat([layer.index.to(hidden.device), new], dim=1)
    gone = torch.cat([~real, real.new_zeros(rows, since)], dim=1)
    columns = index[:, None, None, :].expand(-1, *mask.shape[1:3], -1)
    gathered = mask.expand(rows, *mask.shape[1:]).gather(3, columns)
    return caches.pad_mask(mask_out(gathered, gone[:, None, None, :]), width)
