"""Shortening a padded batch of sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Shortening:
    """A gather that shortens a padded batch: the source of each place, and which places are real.

    Attributes:
        index: int64 `[batch, new]`, the place in the longer sequence.
        mask: bool `[batch, new]`, which places hold real tokens.
        dropped: bool `[batch, new]`, the fillers; none if there are none.
        padded: whether the mask has a false; without, there are no fillers.
    """

    index: Tensor
    mask: Tensor
    dropped: Tensor | None
    padded: bool

    @property
    def filler(self) -> Tensor:
        """Bool `[batch, new]`: which places stand on a dropped token because the row has no padding of its own left.

        What they hold must be replaced or masked.
        """
        return torch.zeros_like(self.mask) if self.dropped is None else self.dropped

    def take(self, x: Tensor) -> Tensor:
        """Gather `[batch or 1, old, ...]` to `[batch, new, ...]`."""
        index = self.index.to(x.device)
        if len(x) != len(index):
            x = x.expand(index.shape[0], *x.shape[1:])
        if x.ndim == 2:
            return x.gather(1, index)
        return x.gather(1, index.reshape(*index.shape, *([1] * (x.ndim - 2))).expand(*index.shape, *x.shape[2:]))

    def take_rows(self, x: Tensor) -> Tensor:
        """Gather `[..., batch or 1, old, d]` to `[..., batch, new, d]`."""
        if x.ndim == 3:
            return self.take(x)
        return torch.stack([self.take_rows(one) for one in x])

    def take_last(self, x: Tensor) -> Tensor:
        """Gather `[..., batch or 1, old]` to `[..., batch, new]`."""
        if x.ndim == 2:
            return self.take(x)
        index = self.index.to(x.device)
        x = x.expand(*x.shape[:-2], *index.shape[:1], x.shape[-1])
        return x.gather(-1, index.expand(*x.shape[:-1], index.shape[-1]))

    def filled(self, x: Tensor, value: int) -> Tensor:
        """Return `x` `[batch, new]` with a value at fillers."""
        return torch.where(self.filler.to(x.device), value, x) if self.padded else x


def shorten(
    keep: Tensor, valid: Tensor, left: bool, sizes: Sequence[int] | None = None, lengths: Sequence[int] | None = None
) -> Shortening:
    """Return the shortening that keeps `keep & valid`, padded on one side.

    Padding that all rows share stays, and a row's own padding is used first, so keeping everything
    is the identity.

    Args:
        keep: bool `[batch, n]`.
        valid: bool `[batch, n]`, false at padding.
        left: whether padding goes to the left.
        sizes: how many places of each row stay, where the host knows it; without, it waits for the device.
        lengths: how many places of each row are valid, likewise.
    """
    n = valid.shape[1]
    if sizes is None or lengths is None:
        sizes, lengths = (keep & valid).sum(dim=1).tolist(), valid.sum(dim=1).tolist()
    width = max(sizes, default=0) + n - max(lengths, default=0)
    padded = any(size < width for size in sizes)
    if not padded:
        # Every row is as long as the others.
        stays = keep if min(lengths, default=n) == n else keep & valid
        index = stays.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, :width]
        mask = torch.ones_like(index, dtype=torch.bool)
        return Shortening(index, mask, None, padded)
    rank = torch.where(keep & valid, 2, torch.where(valid, 0, 1))
    order = rank.sort(dim=1, stable=True, descending=not left).indices
    index = order[:, n - width :] if left else order[:, :width]
    chosen = rank.gather(1, index)
    # All in the sequence's own order, holes in a mask included; what stands on a dropped token goes to the side.
    place = torch.where(chosen > 0, index, index - n if left else index + n)
    turn = place.argsort(dim=1)
    index, chosen = index.gather(1, turn), chosen.gather(1, turn)
    return Shortening(index, chosen == 2, chosen == 0, padded)
