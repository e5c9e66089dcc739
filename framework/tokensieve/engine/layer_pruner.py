"""Pruning between the layers of a language model.

Hidden states are gathered as they enter a stage's layer; every deeper layer is given the mask and
positions of what stays. After the last layer, tokens that left are put back into their places, so
that the sequence keeps its length for everyone outside.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tokensieve.engine import attention_tap as taps
from tokensieve.engine import cache as caches
from tokensieve.engine.batches import compact_positions, from_sequence, of_id, put_back
from tokensieve.engine.installation import Installation
from tokensieve.engine.layer_masks import prompt_mask, step_mask, step_rows
from tokensieve.engine.prefill_state import DecodeStep, PrefillState
from tokensieve.engine.prompt_selector import PromptSelector
from tokensieve.engine.sessions import PerThread
from tokensieve.engine.shortening import shorten
from tokensieve.errors import RefusedError
from tokensieve.evidence import Evidence, PromptHeads, PromptText, Value
from tokensieve.models.attention import mask_kind
from tokensieve.models.decoder import Decoder
from tokensieve.models.offers import DECODER_EVIDENCE
from tokensieve.recipes.recipe import Positions


class LayerPruner:
    """Prunes between layers: hooks on all layers from the first stage inside the language model on.

    Attributes:
        call: what the model is doing; none where layers are left alone.
    """

    call: PerThread[PrefillState | DecodeStep | None] = PerThread(lambda: None)
    _flat = PerThread(lambda: False)

    def __init__(self, decoder: Decoder, selector: PromptSelector, policy: Positions) -> None:
        self._decoder = decoder
        self._selector = selector
        self._policy: Positions = policy
        self._blocks = sorted(block for block in selector.stages if block > 0)
        self._taps: dict[int, taps.PromptTap] = {}

    def install(self, installation: Installation) -> None:
        """Put hooks and taps into the model."""
        installation.later(self.end_call)
        layers = self._decoder.layers
        if self._takes_rows():
            for layer in layers:
                installation.pre_hook(layer, self._without_positions, with_kwargs=True)
        if not self._blocks:
            return
        for block in self._blocks:
            needs = self._selector.needs(block)
            if needs & DECODER_EVIDENCE:
                attention, tap = self._decoder.attention(block - 1), taps.PromptTap()
                self._taps[block] = tap
                taps.install(installation, attention, tap)
                if needs & {Evidence.DECODER_CONTENT, Evidence.DECODER_TEXT_HEADS}:
                    installation.pre_hook(attention, tap.remember, with_kwargs=True)
        if any(Evidence.DECODER_TEXT in self._selector.needs(block) for block in self._blocks):
            language = self._decoder.language_model
            installation.pre_hook(language, self._entering, with_kwargs=True)
        for block in range(self._blocks[0], len(layers)):
            enter = partial(self._enter, block)
            installation.pre_hook(layers[block], enter, trace=False, with_kwargs=True, prepend=True)
        # In front of hooks that record hidden states, which then see the sequence's own length.
        installation.post_hook(layers[-1], self._leave, trace=False, prepend=True)

    def _takes_rows(self) -> bool:
        """Return whether layers get masks `[rows, keys]`, as FlashAttention takes them."""
        return mask_kind(self._decoder.text_config._attn_implementation) == "row"

    def _without_positions(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Leave out positions, which are embedded already: where some are missing, FlashAttention sees packed rows."""
        if self.call is None or kwargs.get("position_embeddings") is None:
            return None
        return args, kwargs | {"position_ids": None}

    def refuse_foreign(self, state: caches.CacheState) -> None:
        """Refuse a cache that was pruned at an earlier layer than this recipe prunes."""
        if state.layers and (not self._blocks or self._blocks[0] > state.layers[0].block):
            raise RefusedError(
                f"this cache was pruned at decoder.{state.layers[0].block}, which the recipe in force does not reach; "
                "go on under the recipe that the conversation began with"
            )

    def begin_call(self, call: PrefillState | DecodeStep) -> None:
        """Prepare for a call."""
        self.call, self._flat = call, self._takes_rows()
        if isinstance(call, DecodeStep):
            call.state.expected = True
        for block, tap in self._taps.items():
            tap.armed = isinstance(call, PrefillState) and block not in call.selection.outcomes

    def end_call(self) -> None:
        """End the call in progress."""
        if isinstance(self.call, DecodeStep):
            self.call.state.expected = False
        self.call = None
        for tap in self._taps.values():
            tap.clear()

    def _entering(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Remember what enters the language model."""
        if isinstance(self.call, PrefillState):
            self.call.entered = kwargs["inputs_embeds"].detach()

    def _enter(
        self, block: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        call = self.call
        if call is None:
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        if isinstance(call, PrefillState):
            hidden, changed = self._enter_prompt(block, call, hidden, kwargs)
        else:
            changed = self._enter_step(block, call, hidden, kwargs)
        return ((hidden, *args[1:]), changed) if args else ((), changed | {"hidden_states": hidden})

    def _enter_prompt(
        self, block: int, prompt: PrefillState, hidden: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]]:
        if block in self._blocks:
            hidden = self._cut(block, prompt, hidden, kwargs)
        width = _width(caches.cache_argument(kwargs), block, hidden.shape[1])
        changed = kwargs | {
            "attention_mask": prompt_mask(prompt, kwargs.get("attention_mask"), hidden, width, self._flat)
        }
        if prompt.rotary is not None:
            changed |= {"position_ids": prompt.positions, "position_embeddings": prompt.rotary}
        return hidden, changed

    def _cut(self, block: int, prompt: PrefillState, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """Select among the tokens entering a layer, and gather those that stay."""
        ids, selection = prompt.ids, prompt.selection
        tokens = from_sequence(hidden, ids, selection.pool.alive.shape[1])
        if block not in selection.outcomes:
            self._selector.select(block, selection, self._evidence(block, prompt, hidden, tokens))
            if block in self._taps:
                self._taps[block].clear()
        outcome = selection.outcomes[block].expanded(prompt.expand)
        if outcome.merges:
            hidden = torch.where((ids >= 0).unsqueeze(-1), of_id(outcome.apply(tokens), ids), hidden)
        sizes, lengths = prompt.layout.sizes(outcome.counts), prompt.lengths
        shortening = shorten((ids < 0) | of_id(outcome.keep, ids), prompt.mask, True, sizes, lengths)
        prompt.lengths = sizes
        prompt.rest = hidden if prompt.rest is None else put_back(prompt.rest, hidden, prompt.index, ~prompt.filler)
        prompt.gathered = prompt.index.gather(1, shortening.index)
        prompt.ids = shortening.filled(shortening.take(ids), -1)
        whole = shortening.mask.sum(dim=1) == prompt.mask.sum(dim=1)
        prompt.mask = shortening.mask
        positions = shortening.take_last(prompt.places if prompt.positions is None else prompt.positions)
        cos, sin = kwargs["position_embeddings"] if prompt.rotary is None else prompt.rotary
        prompt.rotary = shortening.take_rows(cos), shortening.take_rows(sin)
        shift = None
        if self._policy == "compact":
            positions, shift = compact_positions(positions, shortening.mask, whole)
            before = prompt.state.layers[-1].shift if prompt.state.layers else _of_text(prompt.state.shift)
            shift = shift if before is None else shift + before
            prompt.rotary = _where(whole, prompt.rotary, self._decoder.rotary_embeddings(hidden, positions))
        prompt.positions = positions
        prompt.state.layers.append(caches.LayerState(block, prompt.index, shortening.mask, shortening.padded, shift))
        return shortening.take(hidden)

    def _evidence(
        self, block: int, prompt: PrefillState, hidden: Tensor, tokens: Tensor
    ) -> dict[Evidence, Callable[[], Value]]:
        """Return the evidence that a layer's site offers, one row per prompt."""
        step, width = prompt.expand, tokens.shape[1]
        fresh: dict[Evidence, Callable[[], Value]] = {Evidence.FEATURES: lambda: tokens[::step].detach()}
        tap = self._taps.get(block)
        if tap is None or tap.call is None:
            return fresh
        # What was drafted is no part of the prompt.
        length = hidden.shape[1] - prompt.drafted
        ids, attention = prompt.ids[::step, :length], self._decoder.attention(block - 1)
        seen = tap.call.part(step, length)

        def last(call: taps.AttentionCall) -> Tensor:
            place = torch.full((len(ids), 1), length - 1, device=call.query.device)
            return from_sequence(call.rows(place)[:, :, 0].transpose(1, 2), ids, width)

        fresh[Evidence.DECODER_ATTENTION] = lambda: last(seen)
        fresh[Evidence.DECODER_CONTENT] = lambda: last(tap.content(attention).part(step, length))
        fresh[Evidence.DECODER_KEYS] = lambda: from_sequence(_keys(seen), ids, width)
        entered, entering = prompt.entered, hidden[::step, :length].detach()
        if entered is not None:
            fresh[Evidence.DECODER_TEXT] = lambda: _prompt_text(prompt, seen, entered, entering, width)
        fresh[Evidence.DECODER_TEXT_HEADS] = lambda: _prompt_heads(
            prompt, seen, tap.position_scores(attention, step, length), width
        )
        return fresh

    def _enter_step(self, block: int, step: DecodeStep, hidden: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of a deeper layer with its own mask columns and positions."""
        layer = next((layer for layer in reversed(step.state.layers) if layer.block <= block), None)
        if layer is None:
            return kwargs
        prompt, width = step.state.mask.shape[1], _width(step.past, block, hidden.shape[1])
        masked = step_rows if self._flat else step_mask
        mask = masked(kwargs.get("attention_mask"), layer, hidden, prompt, step.length, width)
        changed = kwargs | {"attention_mask": mask}
        if layer.shift is not None:
            outer = _of_text(step.state.shift)
            shift = layer.shift if outer is None else layer.shift - outer
            positions = step.places.to(hidden.device) - shift.to(hidden.device).unsqueeze(1)
            turned = _where(
                shift == 0, kwargs["position_embeddings"], self._decoder.rotary_embeddings(hidden, positions)
            )
            changed |= {"position_ids": positions, "position_embeddings": turned}
        return changed

    def _leave(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Put dropped tokens back into their places."""
        prompt = self.call
        if not isinstance(prompt, PrefillState) or prompt.rest is None:
            return None
        hidden = output[0] if isinstance(output, tuple) else output
        whole = put_back(prompt.rest, hidden, prompt.index, ~prompt.filler)
        return (whole, *output[1:]) if isinstance(output, tuple) else whole


def _keys(call: taps.AttentionCall) -> Tensor:
    """Return keys `[rows, n, d]`, heads side by side."""
    return call.key.transpose(1, 2).flatten(2)


def _prompt_text(
    prompt: PrefillState, call: taps.AttentionCall, whole: Tensor, hidden: Tensor, width: int
) -> PromptText:
    """Return the text of prompts as evidence about their `width` visual tokens.

    Args:
        prompt: whose rows may be expanded.
        call: what the layer before handed to its attention, one row per prompt.
        whole: `[rows, layer-0 length, d]`, what entered the language model.
        hidden: `[prompts, n, d]`, what of them enters the site, without what was drafted.
        width: how many visual tokens there are at most.
    """
    step, length = prompt.expand, hidden.shape[1]
    ids, index = (x[::step, :length] for x in (prompt.ids, prompt.index))
    places, mask = _text_places(prompt, length)
    last = torch.where(ids >= 0, torch.arange(length, device=ids.device), -1).amax(dim=1, keepdim=True)

    def taken(x: Tensor) -> Tensor:
        at = places.to(x.device).unsqueeze(-1).expand(-1, -1, x.shape[-1])
        return x.gather(1, at).masked_fill(~mask.to(x.device).unsqueeze(-1), 0)

    at = index.to(whole.device).unsqueeze(-1)
    entered = whole[::step].gather(1, at.expand(-1, -1, whole.shape[-1]))
    # Where a row has less text than others, what stands there may look nowhere.
    rows = call.mean(places.to(call.query.device)).transpose(1, 2)
    attention = rows.masked_fill(~mask.to(rows.device).unsqueeze(1), 0)
    return PromptText(
        from_sequence(attention, ids, width),
        taken(_keys(call)),
        taken(hidden),
        taken(entered),
        from_sequence(entered, ids, width),
        mask,
        mask & (places > last),
    )


def _text_places(prompt: PrefillState, length: int) -> tuple[Tensor, Tensor]:
    """Return where each prompt's text stands, int64 `[prompts, m]`, and which of these places it has, in its order."""
    text = prompt.text[:: prompt.expand, :length]
    most = int(text.sum(dim=1).max())
    # Stable, so that text stays in the prompt's order.
    places = (~text).to(torch.uint8).sort(dim=1, stable=True).indices[:, :most]
    return places, text.gather(1, places)


def _prompt_heads(prompt: PrefillState, call: taps.AttentionCall, bias: Tensor, width: int) -> PromptHeads:
    """Return the attention of text by head as evidence about `width` visual tokens.

    Args:
        prompt: whose rows may be expanded.
        call: what the layer before handed to its attention, one row per prompt.
        bias: `[prompts or 1, length, length]`, the scores that positions alone give.
        width: how many visual tokens there are at most.
    """
    length = call.query.shape[2]
    ids = prompt.ids[:: prompt.expand, :length]
    places, mask = (x.to(bias.device) for x in _text_places(prompt, length))
    # Where a row has less text than others, what stands there may look nowhere.
    rows = call.rows(places).permute(0, 3, 2, 1).masked_fill(~mask[:, None, :, None], 0)
    lines = bias.expand(len(places), -1, -1).gather(1, places.unsqueeze(-1).expand(-1, -1, length))
    by_id = from_sequence(lines.masked_fill(~mask.unsqueeze(-1), 0).transpose(1, 2), ids, width)
    attention = from_sequence(rows.flatten(2), ids, width).unflatten(2, rows.shape[2:])
    return PromptHeads(attention, by_id, mask)


def _where(rows: Tensor, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the position embeddings `[..., batch or 1, n, d]` of `a` in some rows `[batch]`, of `b` in the others."""
    at = rows.to(a[0].device)[:, None, None]
    return torch.where(at, a[0], b[0]), torch.where(at, a[1], b[1])


def _of_text(shift: Tensor | None) -> Tensor | None:
    """Return the shift `[rows]` of the text axis, which is the first where positions have several."""
    return shift[0] if shift is not None and shift.ndim == 2 else shift


def _width(past: Any, block: int, steps: int) -> int:
    """Return the number of keys that a layer sees: those of a static cache are its whole length."""
    return steps if past is None else int(past.get_mask_sizes(steps, block)[0])
