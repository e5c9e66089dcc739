"""The state of a call of a pruned model, between its layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokensieve.engine import cache as caches
from tokensieve.engine.labels import note_blind_labels
from tokensieve.engine.prompt_layout import PromptLayout
from tokensieve.engine.prompt_selector import PromptSelection
from tokensieve.errors import RefusedError
from tokensieve.ledger.places import Places


@dataclass(eq=False)
class PrefillState:
    """The state of a prefill between two layers: which places are left, and what will be put back.

    Attributes:
        selection: what is selected.
        expand: rows per prompt, where beams or sampling expanded it.
        layout: of the request.
        ids: int64 `[rows, n]`, the visual token at each place, -1 for others; of the request, if no layer is pruned.
        mask: bool `[rows, n]`, which places are real.
        state: what will be left on the cache.
        places: int64 `[rows or 1, n]`, positions of text as layer 0 takes them.
        source: int64 `[rows, layer-0 length]`, places of the request as layer 0 holds them.
        labels: int64 `[rows, layer-0 length]`, what a loss asks for, if it does.
        drafted: how many words at the end are no prompt.
        rest: hidden states `[rows, layer-0 length, d]` of tokens as they left.
        positions: position ids of what stays, once a layer was pruned.
        rotary: their embeddings, likewise.
        entered: vectors `[rows, layer-0 length, d]` as they entered the language model, where a stage asks for them.
        gathered: int64 `[rows, n]`, places in the prompt as layer 0 holds it, once a layer was pruned; see `index`.
        lengths: how long each row is now, without padding, where the host knows it.
    """

    selection: PromptSelection
    expand: int
    layout: PromptLayout
    ids: Tensor
    mask: Tensor
    state: caches.CacheState
    places: Tensor
    source: Tensor
    labels: Tensor | None = None
    drafted: int = 0
    rest: Tensor | None = None
    positions: Tensor | None = None
    rotary: tuple[Tensor, Tensor] | None = None
    entered: Tensor | None = None
    lengths: list[int] | None = None
    gathered: Tensor | None = None

    @property
    def index(self) -> Tensor:
        """int64 `[rows, n]`: places in the prompt as layer 0 holds it."""
        if self.gathered is None:
            self.gathered = torch.arange(self.mask.shape[1], device=self.mask.device).expand_as(self.mask)
        return self.gathered

    def __post_init__(self) -> None:
        self.lengths = self.layout.sizes(self.selection.entering.expanded(self.expand).counts)

    @property
    def text(self) -> Tensor:
        """Bool `[rows, n]`: which places hold text."""
        return self.mask & (self.ids < 0)

    @property
    def filler(self) -> Tensor:
        """Bool `[rows, n]`: which places stand on a token that left, where a row ran out of its own padding."""
        return self.state.mask.gather(1, self.index) & ~self.mask

    def record_places(self, last: object) -> None:
        """Write into the ledger where the places of the request stand in the outputs.

        Args:
            last: the call's `logits_to_keep`.

        Raises:
            RefusedError: if the last place of a prompt left inside the language model.
        """
        real, index, mask, source = self.state.mask, self.gathered, self.mask, self.source

        def stays() -> Tensor:
            return mask if index is None else torch.zeros_like(real).scatter(1, index, mask)

        if self.state.layers:
            prompt = self.layout.part(self.expand, self.layout.shape[1] - self.drafted)
            if not prompt.ends_in_text and bool((real & ~stays())[:, real.shape[1] - self.drafted - 1].any()):
                raise RefusedError(
                    "a prompt ends with an image whose last token left inside the language model, and the next word "
                    "is read there; put text after the image, or prune at decoder.0"
                )
            if self.labels is not None:
                note_blind_labels(self.labels, real, stays(), self.selection.record.notes)
        step, end = self.expand, source.shape[1] - self.drafted
        self.selection.record.places = Places(
            self.state.unpruned - self.drafted, lambda: torch.where(stays(), source, -1)[::step, :end], last
        )


@dataclass(eq=False)
class DecodeStep:
    """A decode step on a pruned cache.

    Attributes:
        state: what the prompt left.
        past: the cache.
        length: how much layer 0 holds before the call.
        places: int64 `[rows or 1, steps]`, positions of text.
    """

    state: caches.CacheState
    past: Any
    length: int
    places: Tensor
