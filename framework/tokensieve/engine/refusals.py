"""Calls that cannot be pruned right: refused before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from tokensieve.engine import cache as caches
from tokensieve.engine.request import ALONG
from tokensieve.errors import RefusedError, listing
from tokensieve.models.decoder import Decoder

CACHES = (None, "dynamic", "dynamic_full", "static")
"""Cache implementations that pruned generation is tested with."""
PAD_LEFT = "generation needs padding on the left; set padding_side='left' in the tokenizer"
_UNPACK = "several samples packed in one row cannot be pruned; pass them as rows of a padded batch"
_KNOWN = ALONG | {"attention_mask", "position_ids", "logits_to_keep", "mm_encoder_outputs", *caches.NAMES}
_PACKED = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx")
"""Arguments that say where the samples of a packed row begin."""


def refuse_inputs(given: Mapping[str, Any], decoder: Decoder) -> None:
    """Refuse arguments that the family cannot be pruned with; unseen, they would go through unpruned."""
    for name, reason in decoder.refused_inputs.items():
        if given.get(name) is not None:
            raise RefusedError(f"{name} was given, but {reason}")


def refuse_generation(given: Mapping[str, Any], decoder: Decoder, deep: bool) -> None:
    """Refuse arguments of `generate` that cannot be right.

    Args:
        given: the arguments by name.
        decoder: of the model.
        deep: whether tokens are removed between layers.
    """
    refuse_inputs(given, decoder)
    config = given.get("generation_config") or decoder.model.generation_config

    def setting(name: str) -> Any:
        value = given.get(name)
        return getattr(config, name, None) if value is None else value

    if setting("prefill_chunk_size") is not None:
        raise RefusedError("prefill_chunk_size splits the prompt before it can be pruned; leave it out")
    if setting("cache_implementation") not in CACHES:
        raise RefusedError(
            f"cache_implementation='{setting('cache_implementation')}' is not supported under prune; "
            f"supported: {', '.join(c for c in CACHES if c)}"
        )
    if getattr(setting("compile_config"), "fullgraph", False):
        raise RefusedError("compile_config with fullgraph=True cannot hold hooks; set fullgraph=False")
    if given.get("assistant_model") is not None and deep:
        raise RefusedError(
            "an assistant_model is not supported while layers are pruned; prune at decoder.0, or leave it out"
        )
    if given.get("custom_generate") is not None:
        raise RefusedError("custom_generate is not supported under prune")
    mask = given.get("attention_mask")
    if isinstance(mask, Tensor) and mask.ndim == 2 and bool((mask[:, -1] == 0).any()):
        raise RefusedError(PAD_LEFT)


def refuse_request(request: Mapping[str, Any], decoder: Decoder, shorter: bool, deep: bool, generates: bool) -> None:
    """Refuse arguments of forward that cannot be right.

    Args:
        request: the arguments by name.
        decoder: of the model.
        shorter: whether the model gets a shorter prompt.
        deep: whether tokens are removed between layers.
        generates: whether `generate` makes the call.
    """
    caches.refuse_unknown(caches.cache_argument(request))
    if shorter and isinstance(request.get("logits_to_keep"), Tensor):
        raise RefusedError("a tensor logits_to_keep names places that pruning moves; pass a number")
    mask = request.get("attention_mask")
    # Generation code prepares a mask for each kind of layer, where there are several.
    prepared = isinstance(mask, Mapping) and generates
    if mask is not None and not isinstance(mask, Tensor) and not prepared:
        raise RefusedError(f"attention_mask is a {type(mask).__name__}; pass a 2-D mask")
    if isinstance(mask, Tensor) and mask.ndim not in (2, 4):
        raise RefusedError(f"attention_mask has {mask.ndim} axes; pass a mask [batch, n], or [batch, 1, n, n]")
    if deep and request.get("is_causal") is False:
        raise RefusedError("is_causal=False is not supported while layers are pruned; prune at decoder.0")
    checkpointing = getattr(decoder.language_model, "gradient_checkpointing", False)
    if deep and checkpointing and decoder.model.training:
        raise RefusedError("gradient checkpointing runs layers twice; disable it, or prune at decoder.0")


def refuse_batch(*args: Any, **kwargs: Any) -> Any:
    """Refuse continuous batching."""
    raise RefusedError("continuous batching (generate_batch) is not supported under prune; use generate")


def refuse_unknown_places(request: Mapping[str, Any], images: frozenset[str], rows: int, length: int) -> None:
    """Refuse arguments that would be wrong for a shorter prompt, or mean something else beside a mask.

    Args:
        request: the call's arguments by name.
        images: the arguments that bring images, see `image_arguments`, or other inputs than text.
        rows: of the batch.
        length: of the prompts.

    Raises:
        RefusedError: if several samples are packed in a row, or an argument that is not known has a value per place.
    """
    packed = [name for name in _PACKED if request.get(name) is not None]
    if packed:
        raise RefusedError(f"{listing(packed)}: {_UNPACK}")
    mask = request.get("attention_mask")
    if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape not in ((rows, length), (1, length)):
        raise RefusedError(
            f"attention_mask is {list(mask.shape)}, and the prompts are [{rows}, {length}]; pass one as long"
        )
    positions = request.get("position_ids")
    alone = not isinstance(mask, Tensor) and caches.cache_argument(request) is None
    # Without a mask and a cache, transformers reads a step other than 1 as the beginning of another sample.
    if alone and isinstance(positions, Tensor) and bool((_text_steps(positions) != 1).any()):
        raise RefusedError(
            f"position_ids do not count up by one, and there is no attention_mask: {_UNPACK}; or, if every row is one "
            "sample, pass an attention_mask of ones"
        )
    for name in request.keys() - _KNOWN - images:
        # Shifted by one place, too.
        shapes = [shape for shape in _shapes(request[name]) if shape != (rows,)]
        found = next((shape for shape in shapes if any(abs(size - length) <= 1 for size in shape)), None)
        if found is not None:
            raise RefusedError(
                f"{name} {list(found)} seems to have a value for each of the {length} places of the prompt, and "
                "pruning does not know how to shorten it; leave it out"
            )


def _shapes(value: Any) -> Iterator[tuple[int, ...]]:
    """Return the shapes of tensors and arrays, of numbers in lists, and of what mappings and lists hold."""
    if isinstance(value, Mapping):
        value = list(value.values())
    elif isinstance(value, (list, tuple)):
        yield (len(value),)
    elif isinstance(shape := getattr(value, "shape", None), tuple):
        yield tuple(shape)
    if isinstance(value, (list, tuple)):
        # Numbers have no more to say: what is nested is looked at, once for all rows of a list of lists.
        for one in value:
            if isinstance(one, (bool, int, float, str)):
                break
            yield from _shapes(one)


def _text_steps(positions: Tensor) -> Tensor:
    """Return by how much positions of text grow from place to place; nothing where positions have no axis of text."""
    if positions.ndim == 3:
        # The first of four axes is that of text; three are those of pictures.
        positions = positions[0] if len(positions) == 4 else positions.new_zeros(1, 0)
    return positions.diff(dim=-1)


def refuse_merged(request: Mapping[str, Any], decoder: Decoder) -> None:
    """Refuse embeddings `[rows, n, d]` in which something stands that is no token: a picture, most likely.

    Raises:
        RefusedError: if a place that the mask shows has a vector that is no row of the embedding table.
    """
    embeds, mask = request.get("inputs_embeds"), request.get("attention_mask")
    if not isinstance(embeds, Tensor) or isinstance(request.get("input_ids"), Tensor):
        return
    rows, length = embeds.shape[:2]
    strange = ~_are_tokens(embeds.detach(), decoder)
    if isinstance(mask, Tensor) and mask.ndim == 2:
        strange &= mask[:, -length:].bool().to(strange.device)
    if bool(strange.any()):
        raise RefusedError(
            f"inputs_embeds has {int(strange.sum())} of {rows * length} places that are no token's embedding, such as "
            "pictures that were merged into it: pruning cannot tell their tokens from text. Pass input_ids with "
            "pixel_values (or mm_encoder_outputs), or make this call outside of prune"
        )


def _are_tokens(embeds: Tensor, decoder: Decoder, block: int = 1024) -> Tensor:
    """Return bool `[rows, n]`: whether the vector at a place is the embedding of some token, to the bit."""
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[embeds.element_size()]
    draw = torch.Generator().manual_seed(0)
    # Sums modulo 2^64: equal vectors have equal sums, and others only by the rarest chance.
    factors = torch.randint(-(2**62), 2**62, (embeds.shape[-1],), generator=draw).to(embeds.device)

    def sums(vectors: Tensor) -> Tensor:
        parts = vectors.to(embeds).contiguous().view(bits).flatten(0, -2).split(block)
        return torch.cat([(part.long() * factors).sum(dim=-1) for part in parts])

    found = sums(embeds)
    known = torch.zeros_like(found, dtype=torch.bool)
    with torch.no_grad():
        for ids in torch.arange(decoder.vocabulary_size, device=embeds.device).split(block):
            known |= torch.isin(found, sums(decoder.embed_tokens(ids)))
    return known.reshape(embeds.shape[:-1])
