"""What stands at which place of a prompt batch, known to the host."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokensieve.engine.batches import assign_grid
from tokensieve.engine.token_layout import HostArray, TokenLayout

_REMEMBERED = 64
"""How many layouts are remembered: those of a server's prompts are few."""


class PromptLayout:
    """The visual tokens, text and padding of a prompt batch.

    A token's id is its turn among the visual tokens of its row.

    Attributes:
        kinds: int8 `[rows, n]`, the modality of the visual token at each place, by number, or -1.
        real: bool `[rows, n]`, false at padding.
    """

    def __init__(self, kinds: NDArray[np.int8], real: NDArray[np.bool_]) -> None:
        self.kinds = kinds
        self.real = HostArray(real)
        self._parts: dict[tuple[int, int], PromptLayout] = {}
        self._assigned: dict[Hashable, tuple[object, TokenLayout, list[list[int]]]] = {}

    @classmethod
    def read(cls, kinds: Sequence[Tensor], real: Tensor) -> PromptLayout:
        """Return the layout of a batch. The host waits once, and remembers layouts that it has seen.

        Args:
            kinds: bool `[rows, n]` by modality, where its visual tokens stand.
            real: bool `[rows, n]`, false at padding.
        """
        code = real.to(torch.int8)
        for number, places in enumerate(kinds):
            code = code.add(places.to(code.device), alpha=2 * number + 2)
        array = code.cpu().numpy()
        return _layout(array.tobytes(), array.shape)

    @property
    def shape(self) -> tuple[int, int]:
        """The number of rows, and their length."""
        rows, length = self.kinds.shape
        return rows, length

    @cached_property
    def visual(self) -> NDArray[np.bool_]:
        """Bool `[rows, n]`: where visual tokens stand."""
        found: NDArray[np.bool_] = self.kinds >= 0
        return found

    @cached_property
    def text(self) -> HostArray:
        """Bool `[rows, n]`: where none stand; padding included."""
        return HostArray(~self.visual)

    @cached_property
    def words(self) -> HostArray:
        """Bool `[rows, n]`: where text stands, without padding."""
        return HostArray(~self.visual & self.real.array)

    @cached_property
    def ids(self) -> HostArray:
        """int64 `[rows, n]`: the id of the visual token at each place, or -1."""
        return HostArray(np.where(self.visual, self.visual.cumsum(axis=1) - 1, -1))

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """How many visual tokens each row has."""
        return tuple(self.visual.sum(axis=1).tolist())

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """How many places of each row are no padding."""
        return tuple(self.real.array.sum(axis=1).tolist())

    @property
    def most(self) -> int:
        """The largest number of visual tokens of a row."""
        return max(self.counts, default=0)

    @property
    def even(self) -> bool:
        """Whether all rows have equally many visual tokens."""
        return len(set(self.counts)) <= 1

    @cached_property
    def padded(self) -> bool:
        """Whether there is padding."""
        return not bool(self.real.array.all())

    @cached_property
    def left(self) -> bool:
        """Whether no row ends with padding."""
        return bool(self.real.array[:, -1:].all())

    @cached_property
    def hidden(self) -> bool:
        """Whether a visual token stands at padding."""
        return bool((self.visual & ~self.real.array).any())

    @cached_property
    def ends_in_text(self) -> bool:
        """Whether no row ends with a visual token."""
        return not bool(self.visual[:, -1:].any())

    @cached_property
    def order(self) -> NDArray[np.int8]:
        """int8 `[tokens]`: the modality of every visual token, row by row."""
        found: NDArray[np.int8] = self.kinds[self.visual]
        return found

    def count(self, number: int) -> int:
        """Return how many visual tokens are of a modality."""
        return int((self.kinds == number).sum())

    @cached_property
    def places(self) -> HostArray:
        """int64 `[rows, most]`: where the token of each id stands; the place after the last for ids that are none."""
        rows, length = self.shape
        found = np.full((rows, self.most), length, dtype=np.int64)
        row, place = np.nonzero(self.visual)
        found[row, self.ids.array[row, place]] = place
        return HostArray(found)

    @cached_property
    def turns(self) -> HostArray:
        """int64 `[tokens]`: `row * most + id` of every visual token, row by row."""
        row, place = np.nonzero(self.visual)
        return HostArray(row * self.most + self.ids.array[row, place])

    @cached_property
    def text_places(self) -> HostArray:
        """int64 `[words]`: `row * n + place` of all text, row by row."""
        return HostArray(np.flatnonzero(self.words.array))

    def part(self, step: int, length: int) -> PromptLayout:
        """Return the layout of every `step`-th row, up to a length."""
        if step == 1 and length == self.shape[1]:
            return self
        if (step, length) not in self._parts:
            self._parts[step, length] = PromptLayout(self.kinds[::step, :length], self.real.array[::step, :length])
        return self._parts[step, length]

    def sizes(self, kept: Sequence[int] | None) -> list[int] | None:
        """Return how long each row is, without padding, where so many of its visual tokens are kept."""
        if kept is None:
            return None
        return [length - count + left for length, count, left in zip(self.lengths, self.counts, kept, strict=True)]

    def assign(self, layouts: Sequence[Sequence[Tensor]], tiled: bool) -> tuple[TokenLayout, list[list[int]]]:
        """Assign pictures to prompts; see `assign_grid`. Assignments of layouts that it has seen are remembered."""
        # By identity: what adapters remember, they hand out again.
        key = tiled, *(tuple(map(id, own)) for own in layouts)
        known = self._assigned.get(key)
        if known is None:
            grid, assigned = assign_grid(layouts, self.kinds, tiled)
            known = layouts, TokenLayout(grid, self.counts), assigned
            if len(self._assigned) >= _REMEMBERED:
                self._assigned.clear()
            self._assigned[key] = known
        return known[1], known[2]

    def by_id(self, flat: Tensor) -> Tensor:
        """Spread values `[tokens, d]`, row by row, to `[rows, most, d]`, by id; zero where there is none."""
        if self.even:
            # Nothing to pad, nothing to copy.
            return flat.reshape(self.shape[0], self.most, -1)
        out = flat.new_zeros(self.shape[0] * self.most, flat.shape[-1])
        out = out.index_copy(0, self.turns.on(flat.device), flat)
        return out.reshape(self.shape[0], self.most, -1)

    def flat(self, x: Tensor) -> Tensor:
        """Return values by id `[rows, most, ...]` as `[tokens, ...]`, row by row; the inverse of `by_id`."""
        whole = x.reshape(-1, *x.shape[2:])
        return whole if self.even else whole.index_select(0, self.turns.on(x.device))

    def put(self, values: Tensor, into: Tensor) -> Tensor:
        """Return `into` `[rows, n]` with values by id `[rows, most]` where the visual tokens stand."""
        index = self.places.on(into.device)
        if self.even:
            return into.scatter(1, index, values)
        return torch.nn.functional.pad(into, (0, 1)).scatter(1, index, values)[:, :-1]


@lru_cache(maxsize=_REMEMBERED)
def _layout(code: bytes, shape: Any) -> PromptLayout:
    array = np.frombuffer(code, dtype=np.int8).reshape(shape)
    return PromptLayout(array // 2 - 1, array % 2 == 1)
