"""Pruning before the vision tower (`pixel.0`).

The call that encodes a prompt's pictures is answered in three steps: tokens are selected by their pixels, the tower
encodes what stays of them, and the others get zeros in place of features. So the output is as long as ever, and what
follows drops those tokens from the prompt as a stage inside the tower would. `generate` encodes before its first
forward, which is why the prompt is set beforehand, and selection is made by whichever call comes first.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokensieve.engine.batches import interleaved
from tokensieve.engine.encoded_images import arguments_by_name
from tokensieve.engine.prompt_layout import PromptLayout
from tokensieve.engine.prompt_selector import EncoderOutcome, PromptSelector
from tokensieve.engine.request import placeholder_places
from tokensieve.engine.sessions import PerThread
from tokensieve.errors import RefusedError
from tokensieve.ledger.records import StageRecord
from tokensieve.models.decoder import Decoder, Modality
from tokensieve.models.packed_tower import PackedTower


@dataclass(frozen=True, eq=False)
class KeptUnits:
    """What stays of the pictures of a kind.

    Attributes:
        ids: int64 `[kept]`, the units that are encoded, by their turn among those of all pictures; at least one.
        counts: how many units each picture had.
    """

    ids: Tensor
    counts: tuple[int, ...]

    @property
    def whole(self) -> bool:
        """Whether all are encoded."""
        return len(self.ids) == sum(self.counts)

    def spread(self, values: Tensor) -> Tensor:
        """Return values `[kept, c]` of the kept units as `[units, c]`, with zeros for the others."""
        return values.new_zeros(sum(self.counts), values.shape[-1]).index_copy(0, self.ids.to(values.device), values)


@dataclass(frozen=True, eq=False)
class PixelBatch:
    """What a stage before the tower did to a prompt batch.

    Attributes:
        record: its part of the ledger.
        keep: bool `[prompts, tokens]`.
        segments: by prompt, the patches of each of its frames, before and after.
        units: by modality, what is encoded.
    """

    record: StageRecord
    keep: Tensor
    segments: list[tuple[tuple[int, ...], tuple[int, ...]]]
    units: Mapping[str, KeptUnits]


class PixelPruner:
    """Selects before the vision tower, and lets it encode what stays.

    Attributes:
        prompt: the arguments of the call whose pictures are about to be encoded, by name; none between calls.
    """

    prompt: PerThread[Mapping[str, Any] | None] = PerThread(lambda: None)
    _batch: PerThread[PixelBatch | None] = PerThread(lambda: None)
    _encoding = PerThread(lambda: False)

    def __init__(self, tower: PackedTower, decoder: Decoder, selector: PromptSelector) -> None:
        self._tower = tower
        self._decoder = decoder
        self._selector = selector

    def forget(self) -> None:
        """Forget the prompt, and what was selected of it."""
        self.prompt = self._batch = None

    def outcome(self, prompts: int) -> tuple[EncoderOutcome, Mapping[str, KeptUnits]]:
        """Return what left before the tower, as of stages inside it, and what was encoded by modality; forget both.

        Args:
            prompts: how many there are.

        Raises:
            RefusedError: if nothing was selected, because their pictures were not encoded in this call.
        """
        batch = self._batch
        self.forget()
        if batch is None or len(batch.keep) != prompts:
            raise RefusedError(
                "the recipe has a stage before the vision tower, but the pictures came already encoded; pass "
                "pixel_values with input_ids to the model or its generate, and nothing encoded before"
            )
        return EncoderOutcome([batch.record], [], 0, batch.keep.double(), batch.segments), batch.units

    def encode(self, modality: Modality, real: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        """Answer a call that encodes pictures: those of the prompt that are left, and any others as ever."""
        given = arguments_by_name(inspect.signature(real), args, kwargs)
        prompt, pixels = self.prompt, given.get(modality.pixel_argument)
        # A family may encode videos as pictures.
        if self._encoding or prompt is None or pixels is None or pixels is not prompt.get(modality.pixel_argument):
            return real(*args, **kwargs)
        if self._batch is None:
            self._batch = self._select(prompt)
        units = self._batch.units[modality.name]
        if units.whole:
            return real(*args, **kwargs)
        self._encoding = True
        try:
            output = real(**given | self._tower.packed_inputs(modality, given, units.ids))
        finally:
            self._encoding = False
        return self._tower.spread(output, units.ids, units.counts)

    def _select(self, prompt: Mapping[str, Any]) -> PixelBatch:
        """Select among the tokens of a prompt batch by their pixels."""
        present = [one for one in self._decoder.modalities if prompt.get(one.pixel_argument) is not None]
        kinds = placeholder_places(prompt, [one.placeholder_id for one in present], self._decoder)
        # Which of the other places are padding, selecting does not ask.
        layout = PromptLayout.read(kinds, torch.ones_like(kinds[0]))
        layouts = [self._tower.layout(modality, prompt) for modality in present]
        for number, (modality, own) in enumerate(zip(present, layouts, strict=True)):
            found, wanted = sum(map(len, own)), layout.count(number)
            if wanted != found:
                raise RefusedError(
                    f"the prompts have {wanted} {modality.name} placeholders, the {modality.name}s {found} visual "
                    "tokens; build prompts with the model's own processor"
                )
        tokens, _ = layout.assign(layouts, self._decoder.joins_adjacent_tiles)
        units_of = [self._tower.pixels(modality, prompt) for modality in present]
        pixels = layout.by_id(interleaved(units_of, layout.order)).detach()
        outcome, record = self._selector.select_pixels(tokens, pixels)
        keep = layout.flat(outcome.keep).cpu()
        units = {}
        for number, (modality, own) in enumerate(zip(present, layouts, strict=True)):
            stays = keep[torch.from_numpy(layout.order == number)]
            # A set may be empty, and a tower cannot encode nothing.
            ids = stays.nonzero().flatten() if bool(stays.any()) else torch.zeros(1, dtype=torch.int64)
            units[modality.name] = KeptUnits(ids, tuple(map(len, own)))
        rows = outcome.keep.cpu().numpy()
        return PixelBatch(record, outcome.keep, self._segments(tokens.grid.array, tokens.every.array, rows), units)

    def _segments(
        self, grid: NDArray[np.int64], there: NDArray[np.bool_], keep: NDArray[np.bool_]
    ) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Return for each prompt how many patches its frames had, and how many are left of each."""
        size, found = self._tower.patches_per_unit, []
        for own, real, stays in zip(grid, there, keep, strict=True):
            _, frame = np.unique(own[real][:, [0, 2]], axis=0, return_inverse=True)
            whole = np.bincount(frame.reshape(-1)) * size
            left = np.bincount(frame.reshape(-1)[stays[real]], minlength=len(whole)) * size
            found.append((tuple(whole.tolist()), tuple(left.tolist())))
        return found
