"""`Places`: where the places of a request stand in the outputs of a pruned forward."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tokensieve.errors import TokensieveError


class Places:
    """Where the places of prompts stand in logits and hidden states, and back.

    A cut before the language model (`decoder.0`, or inside the vision encoder where it shortens the prompt) makes the
    outputs shorter than the request; a cut inside (`decoder.K`) leaves their length, and what stands at a place that
    left is no result. Rows are prompts, before beams are expanded. Tensors are on the CPU; they are fetched from the
    device when they are first read, so that no prefill waits.

    Args:
        length: the length of the request.
        read: gives `request`, on any device, when it is first asked for.
        last: the call's `logits_to_keep`; all places are there unless it is a number above 0.
    """

    def __init__(self, length: int, read: Callable[[], Tensor], last: object = None) -> None:
        self.length = length
        self.last = last if isinstance(last, int) else 0
        self._read: Callable[[], Tensor] | Tensor = read

    @property
    def request(self) -> Tensor:
        """The place of the request at each place of the outputs, int32 `[rows, length of the outputs]`.

        It is -1 at padding, and at places that left inside the language model.
        """
        if not isinstance(self._read, Tensor):
            self._read = self._read().to("cpu", torch.int32)
        return self._read

    @property
    def output(self) -> Tensor:
        """The place in the outputs of each place of the request, int64 `[rows, length]`.

        It is -1 at padding and at tokens that were dropped or merged into another one.
        """
        rows, width = self.request.shape
        found = torch.full((rows, self.length + 1), -1, dtype=torch.int64)
        at = torch.where(self.request >= 0, self.request, self.length).long()
        return found.scatter(1, at, torch.arange(width).expand(rows, -1))[:, :-1]

    @property
    def predicting(self) -> Tensor:
        """The place in the outputs whose logits predict each place of the request, int64 `[rows, length]`.

        It is that of the last kept place before it; -1 where there is none.
        """
        none = torch.full((len(self.request), 1), -1, dtype=torch.int64)
        return torch.cat([none, self._latest()[:, :-1]], dim=1)

    def restore(self, x: Tensor) -> Tensor:
        """Return outputs in the length of the request, to be sliced by the places of the unpruned prompt.

        Where a token left, there is what the last kept place before it has, because that predicts the next word.

        Args:
            x: `[rows, length of the outputs, ...]`, or its last places where `logits_to_keep` cut it.

        Returns:
            `[rows, length, ...]`, zero where nothing is known: at padding on the left, and before `logits_to_keep`; at
            padding on the right there is what the last place of the row has.

        Raises:
            TokensieveError: if x is of another prefill, or was sliced: its number of rows or its length do not fit.
        """
        rows, width = self.request.shape
        cut = len(range(width)[-self.last :])
        if x.ndim < 2 or x.shape[0] != rows or x.shape[1] not in (width, cut):
            kept = f", or {cut} by its logits_to_keep" if cut != width else ""
            raise TokensieveError(
                f"outputs {list(x.shape)} are not of this prefill, which has {rows} rows and {width} places{kept}; "
                "read run.places after the call that gave them, and before the next, and slice what restore returns"
            )
        at = (self._latest() - (width - x.shape[1])).to(x.device)
        index = at.clamp(min=0).reshape(*at.shape, *([1] * (x.ndim - 2))).expand(*at.shape, *x.shape[2:])
        known = (at >= 0).reshape(*at.shape, *([1] * (x.ndim - 2)))
        return torch.where(known, x.gather(1, index), torch.zeros((), dtype=x.dtype, device=x.device))

    def _latest(self) -> Tensor:
        """Return the output place of the last kept place up to each place `[rows, length]`, or -1."""
        return self.output.cummax(dim=1).values
