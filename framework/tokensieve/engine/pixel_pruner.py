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

from tokensieve.cost.vision import Stretches
from tokensieve.engine.batches import interleaved
from tokensieve.engine.encoded_images import arguments_by_name
from tokensieve.engine.prompt_layout import PromptLayout
from tokensieve.engine.prompt_selector import EncoderOutcome, PromptSelector
from tokensieve.engine.request import placeholder_places
from tokensieve.engine.sessions import PerThread
from tokensieve.errors import RefusedError
from tokensieve.ledger.records import StageRecord
from tokensieve.models.decoder import Decoder, Modality
from tokensieve.models.packed_tower import PackedTower, among_all


@dataclass(frozen=True, eq=False)
class KeptUnits:
    """What stays of the pictures of a kind.

    Attributes:
        tower: the vision tower.
        modality: the kind.
        ids: int64 `[kept]`, the units that are encoded, by their turn among those of all pictures; at least one.
        counts: how many units each picture had.
    """

    tower: PackedTower
    modality: Modality
    ids: Tensor
    counts: tuple[int, ...]

    @property
    def whole(self) -> bool:
        """Whether all are encoded."""
        return len(self.ids) == sum(self.counts)

    def tokens(self, values: Tensor, request: Mapping[str, Any]) -> Tensor:
        """Return values of all units `[units, c]` from those of the patches that were encoded; zeros for the others."""
        kept = self.tower.patches_to_units(values, self.modality, request, self.ids)
        return among_all(kept, self.ids, sum(self.counts))


@dataclass(frozen=True, eq=False)
class PixelBatch:
    """What a stage before the tower did to a prompt batch.

    Attributes:
        record: its part of the ledger.
        keep: bool `[prompts, tokens]`.
        stretches: by prompt, its patches in the tower, before and after.
        units: by modality, what is encoded.
    """

    record: StageRecord
    keep: Tensor
    stretches: list[tuple[Stretches, Stretches]]
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
        return EncoderOutcome([batch.record], [], 0, batch.keep.double(), batch.stretches), batch.units

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
            units[modality.name] = KeptUnits(self._tower, modality, ids, tuple(map(len, own)))
        rows = outcome.keep.cpu().numpy()
        return PixelBatch(record, outcome.keep, self._stretches(tokens.grid.array, tokens.every.array, rows), units)

    def _stretches(
        self, grid: NDArray[np.int64], there: NDArray[np.bool_], keep: NDArray[np.bool_]
    ) -> list[tuple[Stretches, Stretches]]:
        """Return for each prompt how its patches attend to each other, of all and of those that are left."""
        found = []
        for own, real, stays in zip(grid, there, keep, strict=True):
            places, left = own[real], stays[real]
            window = self._tower.windows(torch.from_numpy(places[:, 1:])).numpy()
            frames = self._sizes(places[:, [0, 2]], left)
            windows = self._sizes(np.stack([places[:, 0], window], axis=1), left)
            found.append((Stretches(frames[0], windows[0]), Stretches(frames[1], windows[1])))
        return found

    def _sizes(self, part: NDArray[np.int64], left: NDArray[np.bool_]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return how many patches each part has, and how many are left; `part` `[tokens, 2]` names it."""
        _, number = np.unique(part, axis=0, return_inverse=True)
        number = number.reshape(-1)
        whole = np.bincount(number) * self._tower.patches_per_unit
        rest = np.bincount(number[left], minlength=len(whole)) * self._tower.patches_per_unit
        return tuple(whole.tolist()), tuple(rest.tolist())
