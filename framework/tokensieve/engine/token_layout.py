"""What the host knows of a batch's visual tokens: where each was in its picture, and which groups they make.

None of it depends on what the model computes, so it is worked out once, without waiting for a device, and remembered
with the layout: a server sees the same few.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokensieve.evidence import NEWLINE


class HostArray:
    """An array on the host, with a copy on each device that asked for one. Nobody may write into either.

    Attributes:
        array: the values.
    """

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = np.ascontiguousarray(array)
        self._on: dict[torch.device, Tensor] = {}

    def on(self, device: torch.device) -> Tensor:
        """Return the values on a device."""
        if device not in self._on:
            # Kept for calls to come, some of which may be under autograd.
            with torch.inference_mode(False):
                self._on[device] = torch.from_numpy(self.array).to(device)
        return self._on[device]


class OnDevice:
    """Values that only a device knows."""

    def __init__(self, values: Tensor) -> None:
        self._values = values

    def on(self, device: torch.device) -> Tensor:
        """Return the values on a device."""
        return self._values.to(device)


@dataclass(frozen=True, eq=False)
class Groups:
    """The groups in which tokens are selected, by ascending id within each.

    Attributes:
        ids: int64 `[groups, n]`, the id of each token in its sample; 0 at padding.
        valid: bool `[groups, n]`, which places hold a token.
        samples: int64 `[groups]`, the sample of each.
        flat: int64 `[groups, n]`, each token's place among all `[batch * tokens]`; the place after the last at padding.
        sizes: how many tokens each group has.
        judged: how many tokens of each sample are in a group.
        whole: whether group `i` is sample `i`, with every token at the place of its id.
        shape: `[batch, tokens]`.
    """

    ids: HostArray | OnDevice
    valid: HostArray
    samples: HostArray
    flat: HostArray | OnDevice
    sizes: tuple[int, ...]
    judged: tuple[int, ...]
    whole: bool
    shape: tuple[int, int]

    @classmethod
    def of(cls, grid: NDArray[np.int64], judged: NDArray[np.bool_], per: str) -> Groups:
        """Return the groups of the judged tokens.

        Args:
            grid: `[batch, tokens, 5]`.
            judged: `[batch, tokens]`.
            per: `image`, `sample`, `tile` or `frame`.
        """
        batch, tokens = judged.shape
        image = grid[..., 0]
        part = {"image": image * 0, "sample": image * 0, "tile": grid[..., 1], "frame": grid[..., 2]}[per]
        number = part if per == "sample" else image * (part.max(initial=0) + 1) + part
        stride = number.max(initial=0) + 1
        sample, ids = np.nonzero(judged)
        groups, group, sizes = np.unique(sample * stride + number[sample, ids], return_inverse=True, return_counts=True)
        # Stable, so ids stay ascending within a group.
        order = np.argsort(group, kind="stable")
        group, ids, sample = group[order], ids[order], sample[order]
        turn = np.arange(len(group)) - (sizes.cumsum() - sizes)[group]
        width = int(sizes.max(initial=0))
        places = np.zeros((len(groups), width), dtype=np.int64)
        flat = np.full_like(places, batch * tokens)
        places[group, turn], flat[group, turn] = ids, sample * tokens + ids
        valid = np.arange(width) < sizes[:, None]
        own = np.arange(batch)[:, None] * tokens + np.arange(tokens)
        whole = flat.shape == own.shape and bool(((flat == own) | ~valid).all())
        return cls(
            HostArray(places),
            HostArray(valid),
            HostArray(groups // stride),
            HostArray(flat),
            tuple(sizes.tolist()),
            tuple(judged.sum(axis=1).tolist()),
            whole,
            (batch, tokens),
        )

    @classmethod
    def of_samples(cls, alive: Tensor, counts: tuple[int, ...]) -> Groups:
        """Return one group per sample, of the tokens that are left `[batch, tokens]`, of which there are so many."""
        batch, tokens = alive.shape
        width = max(counts, default=0)
        judged = np.asarray(counts, dtype=np.int64)
        some = np.flatnonzero(judged)
        ids = alive.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, :width]
        valid, samples = HostArray(np.arange(width) < judged[some, None]), HostArray(some)
        if len(some) < batch:
            ids = ids[samples.on(alive.device)]
        flat = ids + samples.on(alive.device).unsqueeze(1) * tokens
        if not valid.array.all():
            real = valid.on(alive.device)
            ids, flat = torch.where(real, ids, 0), torch.where(real, flat, batch * tokens)
        sizes = tuple(judged[some].tolist())
        return cls(OnDevice(ids), valid, samples, OnDevice(flat), sizes, counts, False, (batch, tokens))

    def spread(self, x: Tensor, into: Tensor) -> Tensor:
        """Return `into` `[batch, tokens]` with the values `x` `[groups, n]` at the places of their tokens."""
        if self.whole:
            return torch.where(self.valid.on(x.device), x, into) if self.padded else x
        room = torch.nn.functional.pad(into.reshape(-1), (0, 1))
        return room.scatter(0, self.flat.on(x.device).reshape(-1), x.reshape(-1))[:-1].reshape(into.shape)

    @cached_property
    def padded(self) -> bool:
        """Whether a place holds no token."""
        return not bool(self.valid.array.all())

    def per_sample(self, values: list[int]) -> list[int]:
        """Return the sum over the groups of each sample of a value for each group."""
        found = np.zeros(self.shape[0], dtype=np.int64)
        np.add.at(found, self.samples.array, np.asarray(values, dtype=np.int64))
        return [int(one) for one in found]


class TokenLayout:
    """Where the visual tokens of a batch were, before any left.

    Attributes:
        grid: int64 `[batch, tokens, 5]`: image, tile, frame, row, column of each token.
        counts: how many tokens each sample has; they are those with the smallest ids.
    """

    def __init__(self, grid: NDArray[np.int64], counts: tuple[int, ...]) -> None:
        self.grid = HostArray(grid)
        self.counts = counts
        self._groups: dict[tuple[str, bool], Groups] = {}

    @classmethod
    def of(cls, grid: Tensor, counts: tuple[int, ...] | None = None) -> TokenLayout:
        """Return the layout of a grid `[batch, tokens, 5]`, of samples that all have all tokens by default."""
        return cls(grid.cpu().numpy(), counts or (grid.shape[1],) * len(grid))

    @cached_property
    def every(self) -> HostArray:
        """Bool `[batch, tokens]`: which tokens there are."""
        width = self.grid.array.shape[1]
        return HostArray(np.arange(width) < np.asarray(self.counts, dtype=np.int64)[:, None])

    @cached_property
    def newlines(self) -> NDArray[np.bool_]:
        """Bool `[batch, tokens]`: which tokens end a row of a picture."""
        found: NDArray[np.bool_] = self.every.array & (self.grid.array[..., 4] == NEWLINE)
        return found

    @cached_property
    def has_newlines(self) -> bool:
        """Whether any token ends a row of a picture."""
        return bool(self.newlines.any())

    @cached_property
    def single(self) -> bool:
        """Whether every sample has one picture at most."""
        return not bool((self.grid.array[..., 0] * self.every.array).any())

    def groups(self, per: str, judges_newlines: bool, alive: NDArray[np.bool_] | None = None) -> Groups:
        """Return the groups of the tokens that are left: all, if `alive` `[batch, tokens]` does not say which."""
        if alive is None:
            key = per, judges_newlines
            if key not in self._groups:
                self._groups[key] = self.groups(per, judges_newlines, self.every.array)
            return self._groups[key]
        return Groups.of(self.grid.array, alive if judges_newlines else alive & ~self.newlines, per)
