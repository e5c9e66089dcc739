"""Rewriting a request at the top of a model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokensieve.adapter import Decoder
from tokensieve.engine import cache as caches
from tokensieve.engine.batches import close_up
from tokensieve.engine.frame import Frame
from tokensieve.errors import RefusedError
from tokensieve.recipe import Positions


def has_images(request: Mapping[str, Any], decoder: Decoder) -> bool:
    """Tell whether a call brings images, raw or encoded."""
    encoded = request.get("mm_encoder_outputs") or {}
    return any(output is not None for output in encoded.values()) or any(
        request.get(key) is not None for key in decoder.pixel_keys
    )


def visual_places(request: Mapping[str, Any], decoder: Decoder) -> Tensor:
    """Give bool `[rows, n]`: the image placeholders of a prompt."""
    ids = request.get("input_ids")
    if isinstance(ids, Tensor):
        return torch.isin(ids, torch.tensor(decoder.placeholders, device=ids.device))
    embeds = request.get("inputs_embeds")
    if not isinstance(embeds, Tensor):
        raise RefusedError("a prompt with images needs input_ids or inputs_embeds")
    marks = decoder.embed(torch.tensor(decoder.placeholders, device=embeds.device))
    return (embeds.unsqueeze(2) == marks).all(dim=-1).any(dim=-1)


def real_places(request: Mapping[str, Any], rows: int, length: int, device: torch.device) -> Tensor:
    """Give the prompt's mask, bool `[rows, n]`; a ready-made 4-D one is read at its last query."""
    mask = request.get("attention_mask")
    if not isinstance(mask, Tensor):
        return torch.ones(rows, length, dtype=torch.bool, device=device)
    if mask.ndim == 2:
        return mask.bool()
    last = mask[:, 0, -1, :length]
    seen = last if last.dtype == torch.bool else last == 0
    return seen.expand(rows, -1)


def shortened(
    request: Mapping[str, Any], decoder: Decoder, frame: Frame, ids: Tensor, policy: Positions
) -> tuple[dict[str, Any], Tensor | None]:
    """Shorten everything in a request that runs along the sequence.

    Args:
        request: the call's arguments by name.
        decoder: whose forward it is.
        frame: what stays.
        ids: int64 `[rows, n]`, which visual token stood where, or -1.
        policy: what becomes of positions.

    Returns:
        The request without its images, and by how much positions were closed up, `[rows]` or none.
    """
    encoder = inspect.signature(decoder.base.get_image_features).parameters  # type: ignore[arg-type]
    images = {*decoder.pixel_keys, *encoder} - {"kwargs"}
    new = {key: value for key, value in request.items() if key not in images}
    # A filler must not read as an image placeholder; any of the row's other tokens will do.
    text = (ids < 0).to(torch.uint8).argmax(dim=1, keepdim=True)
    steady = Frame(torch.where(frame.filler, text, frame.index), frame.mask, frame.filler)
    for key in ("input_ids", "inputs_embeds", "token_type_ids", "mm_token_type_ids"):
        if isinstance(new.get(key), Tensor):
            new[key] = steady.take(new[key])
    if isinstance(new.get("labels"), Tensor):
        new["labels"] = torch.where(frame.filler, -100, frame.take(new["labels"]))
    new["attention_mask"] = frame.mask.long()
    positions = request.get("position_ids")
    if not isinstance(positions, Tensor):
        positions = torch.arange(ids.shape[1], device=ids.device).unsqueeze(0)
    new["position_ids"] = frame.take_last(positions)
    shift = None
    if policy == "compact":
        new["position_ids"], shift = close_up(new["position_ids"], frame.mask)
    return new, shift


def continued(request: Mapping[str, Any], past: Any, state: caches.CacheState) -> tuple[dict[str, Any], int]:
    """Give a later call the mask and positions that fit what a pruned cache really holds.

    Returns:
        The request, and how much layer 0 holds before it.
    """
    tokens = request.get("input_ids")
    tokens = tokens if isinstance(tokens, Tensor) else request["inputs_embeds"]
    rows, steps = tokens.shape[:2]
    if rows != len(state.mask):
        raise RefusedError(
            f"the cache was pruned for {len(state.mask)} rows, this call has {rows}; expand prompts, not caches"
        )
    length = caches.held(past)
    since = length - state.mask.shape[1] + steps
    mask = request.get("attention_mask")
    new = dict(request)
    tail = torch.ones(rows, since, dtype=torch.bool, device=tokens.device)
    if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] == state.unpruned + since:
        tail = mask[:, state.unpruned :].bool()
    plain = not state.padded and (mask is None or bool(tail.all()))
    new["attention_mask"] = None if plain else torch.cat([state.mask, tail], dim=1).long()
    positions = request.get("position_ids")
    if not isinstance(positions, Tensor):
        positions = torch.arange(steps, device=tokens.device).unsqueeze(0) + (length + state.dropped)
    new["position_ids"] = positions if state.shift is None else positions - state.shift.unsqueeze(1)
    return new, length
