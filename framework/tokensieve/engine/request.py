"""Rewriting the arguments of a model's forward for a shorter prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tokensieve.engine import cache as caches
from tokensieve.engine.batches import compact_positions, gather_mask
from tokensieve.engine.labels import IGNORED
from tokensieve.engine.prompt_layout import PromptLayout
from tokensieve.engine.shortening import Shortening
from tokensieve.errors import RefusedError
from tokensieve.models.attention import mask_kind
from tokensieve.models.decoder import Decoder, Modality
from tokensieve.recipes.recipe import Positions

ALONG = frozenset({"input_ids", "inputs_embeds", "token_type_ids", "mm_token_type_ids", "labels", "shift_labels"})
"""Arguments that run along the sequence and are shortened with it, beside masks and positions."""


def has_images(request: Mapping[str, Any], modalities: Sequence[Modality]) -> bool:
    """Return whether a call brings images or videos, raw or encoded."""
    encoded = request.get("mm_encoder_outputs") or {}
    return any(output is not None for output in encoded.values()) or any(
        request.get(modality.pixel_argument) is not None for modality in modalities
    )


def placeholder_places(request: Mapping[str, Any], placeholders: Sequence[int], decoder: Decoder) -> list[Tensor]:
    """Return for each placeholder where it stands in the prompts, bool `[rows, n]`."""
    ids = request.get("input_ids")
    if isinstance(ids, Tensor):
        return [ids == placeholder for placeholder in placeholders]
    embeds = request.get("inputs_embeds")
    if not isinstance(embeds, Tensor):
        raise RefusedError("a prompt with images needs input_ids or inputs_embeds")
    marks = decoder.embed_tokens(torch.tensor(placeholders, device=embeds.device))
    return [(embeds == mark).all(dim=-1) for mark in marks]


def prompt_mask(request: Mapping[str, Any], rows: int, length: int, device: torch.device) -> Tensor:
    """Return the prompt's mask, bool `[rows, n]`; a ready-made 4-D one is read at its last query."""
    mask = request.get("attention_mask")
    if isinstance(mask, Mapping):
        # One for each kind of layer; padding is the same to all.
        mask = mask["full_attention"]
    if not isinstance(mask, Tensor):
        return torch.ones(rows, length, dtype=torch.bool, device=device)
    if mask.ndim == 2:
        return mask.bool()
    last = mask[:, 0, -1, :length]
    seen = last if last.dtype == torch.bool else last == 0
    return seen.expand(rows, -1)


def text_axis(positions: Tensor) -> Tensor:
    """Return the positions `[rows or 1, n]` of text: the first axis where positions have several."""
    return positions[0] if positions.ndim == 3 else positions


def image_arguments(decoder: Decoder) -> frozenset[str]:
    """Return the names of forward's arguments that hold raw images, their sizes and grids."""
    pixels = {modality.pixel_argument for modality in decoder.modalities}
    return frozenset(pixels.union(*(decoder.encoder_arguments(modality) for modality in decoder.modalities)))


def shorten_request(
    request: Mapping[str, Any],
    decoder: Decoder,
    images: frozenset[str],
    shortening: Shortening,
    layout: PromptLayout,
    policy: Positions,
    prepared: bool,
) -> tuple[dict[str, Any], Tensor | None, Tensor]:
    """Shorten everything in a request that runs along the sequence.

    Args:
        request: the call's arguments by name.
        decoder: whose forward it is.
        images: the arguments that bring images, see `image_arguments`.
        shortening: what stays.
        layout: of the prompts.
        policy: what becomes of positions.
        prepared: whether a 4-D mask was made by `generate`, from the words that the model is now not given. One of the
            caller's own is kept, at the places that stay.

    Returns:
        The request without its images; by how much positions were closed up, `[..., rows]` or none; and
        the position of text that would have followed the unpruned prompt, `[rows]`.
    """
    new = {key: value for key, value in request.items() if key not in images}
    device, (rows, length) = shortening.index.device, layout.shape
    steady = shortening
    if shortening.padded:
        # A filler must not read as an image placeholder; any of the row's other tokens will do.
        text = layout.text.on(device).to(torch.uint8).argmax(dim=1, keepdim=True)
        steady = replace(shortening, index=torch.where(shortening.filler, text, shortening.index))
    for key in ALONG - {"labels", "shift_labels"}:
        if isinstance(new.get(key), Tensor):
            new[key] = steady.take(new[key])
    if isinstance(new.get("labels"), Tensor):
        new["labels"] = shortening.filled(shortening.take(new["labels"]), IGNORED)
    if isinstance(new.get("shift_labels"), Tensor):
        new["shift_labels"] = _shorten_shifted(new["shift_labels"], shortening)
    given = request.get("attention_mask")
    new["attention_mask"] = shortening.mask.long()
    if isinstance(given, Tensor) and given.ndim == 4 and not prepared:
        index, filler = shortening.index.to(given.device), shortening.filler.to(given.device)
        # That of a static cache is as wide as the cache.
        width = given.shape[-1] if given.shape[-1] > length else index.shape[1]
        new["attention_mask"] = caches.pad_mask(gather_mask(given, index, filler), width)
    positions = request.get("position_ids")
    if not isinstance(positions, Tensor):
        positions = decoder.position_ids(request, layout.real.on(device), 0, length)
    if positions.ndim == 3:
        positions = decoder.complete_position_ids(positions, torch.arange(length, device=device).expand(rows, -1))
    text = text_axis(positions).expand(rows, -1)
    if layout.padded:
        text = text.masked_fill(~layout.real.on(text.device), -1)
    end = text.max(dim=1).values + 1
    new["position_ids"] = shortening.take_last(positions)
    shift = None
    if policy == "compact":
        whole = shortening.mask.sum(dim=1) == layout.real.on(device).sum(dim=1)
        new["position_ids"], shift = compact_positions(new["position_ids"], shortening.mask, whole)
    return new, shift, end


def _shorten_shifted(labels: Tensor, shortening: Shortening) -> Tensor:
    """Shorten labels `[rows, n]` that stand one place before their tokens: each stands before its token again."""
    ahead = shortening.filled(shortening.take(torch.nn.functional.pad(labels[:, :-1], (1, 0), value=IGNORED)), IGNORED)
    return torch.cat([ahead[:, 1:], labels[:, -1:]], dim=1)


def continue_request(
    request: Mapping[str, Any], decoder: Decoder, past: Any, state: caches.CacheState, given: bool
) -> tuple[dict[str, Any], int]:
    """Return a decode step's arguments with the mask and positions that fit what a pruned cache really holds.

    A mask is given where something is padded, and to FlashAttention, which reads from it how much of a static cache is
    in use.

    Args:
        request: the call's arguments by name.
        decoder: whose forward it is.
        past: the cache.
        state: what the prompt left on it.
        given: whether the caller gave the mask, and `generate` did not prepare it.

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
    length = caches.cached_length(past)
    since = length - state.mask.shape[1] + steps
    tail = _mask_behind(request.get("attention_mask"), state, since, given)
    new = dict(request)
    new["attention_mask"] = None
    rows_kind = mask_kind(decoder.text_config._attn_implementation) == "row"
    if state.padded or rows_kind or (tail is not None and not bool(tail.all())):
        tail = state.mask.new_ones(rows, since) if tail is None else tail
        new["attention_mask"] = torch.cat([state.mask, tail], dim=1).long()
    positions = request.get("position_ids")
    if not isinstance(positions, Tensor):
        positions = decoder.position_ids(request, state.mask, length + state.dropped, steps)
    if positions.ndim == 3:
        since_prompt = torch.arange(length - state.mask.shape[1], since, device=tokens.device)
        positions = decoder.complete_position_ids(positions, state.end.unsqueeze(1) + since_prompt)
    new["position_ids"] = positions if state.shift is None else positions - state.shift.unsqueeze(-1)
    return new, length


def _mask_behind(mask: Any, state: caches.CacheState, since: int, given: bool) -> Tensor | None:
    """Return the part of a step's mask that is behind the prompt, bool `[rows, since]`, or none where there is none.

    Raises:
        RefusedError: if the caller's mask does not fit, or says of the prompt what the prompt's own did not.
    """
    length = state.unpruned + since
    if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.shape[1] != length:
        if given and mask is not None:
            shape = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise RefusedError(
                f"attention_mask is {shape}, and the cache holds a pruned prompt: pass a mask [rows, {length}], of the "
                f"prompt's {state.unpruned} places and the {since} behind them, or none"
            )
        return None
    if given and not torch.equal(mask[:, : state.unpruned].bool().expand_as(state.real), state.real.to(mask.device)):
        raise RefusedError(
            "attention_mask hides other places of the prompt than the mask that the prompt was pruned with; give the "
            "same for the prompt, or start again without the cache"
        )
    return mask[:, state.unpruned :].bool()
