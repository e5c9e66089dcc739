"""A call of `generate` in progress."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tokensieve.engine.prompt_selector import PromptSelection


@dataclass(eq=False)
class GenerateCall:
    """A call of `generate` in progress.

    Attributes:
        rows: prompts, before beams are expanded.
        length: places of a prompt; what a call brings beyond them was generated or drafted.
        given: the caller's arguments, of which a forward sees only what is left after encoding.
        selection: what was selected at its first forward, reused by later ones.
        selected: the arguments of that forward.
        goes_on: whether a step on a pruned cache was seen.
    """

    rows: int
    length: int
    given: Mapping[str, Any]
    selection: PromptSelection | None = None
    selected: Mapping[str, Any] = field(default_factory=dict)
    goes_on: bool = False

    def repeats(self, request: Mapping[str, Any], images: Iterable[str]) -> bool:
        """Return whether a request with images is the prompt once more, as without a cache, and not another one.

        Code that runs inside `generate`, such as a logits processor, may ask the model about other pictures.

        Args:
            request: the arguments of the call.
            images: the arguments that bring images.
        """
        before, now = ([*_pictures(one, images)] for one in (self.selected, request))
        words, ids = self.selected.get("input_ids"), request.get("input_ids")
        if len(before) != len(now) or any(a is not b for a, b in zip(before, now, strict=True)):
            return False
        if not isinstance(words, Tensor) or not isinstance(ids, Tensor):
            return words is None
        return torch.equal(words[:, : self.length], ids[:, : self.length])

    def goes_on_with(self, request: Mapping[str, Any]) -> bool:
        """Return whether the mask of a step on a pruned cache is the caller's.

        It is at the first step, if no prompt came before; later ones, and ready-made ones, are prepared by `generate`.
        """
        first, self.goes_on = not self.goes_on and self.selection is None, True
        mask = request.get("attention_mask")
        return first and isinstance(mask, Tensor) and mask.ndim == 2


def _pictures(request: Mapping[str, Any], images: Iterable[str]) -> Iterator[Any]:
    """Return what brings the pictures of a call: tensors, and outputs of the encoder."""
    yield from (request.get(name) for name in sorted(images))
    encoded = request.get("mm_encoder_outputs") or {}
    yield from (encoded[name] for name in sorted(encoded))
