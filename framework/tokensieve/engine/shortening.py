"""Shortening a padded batch of sequences."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Shortening:
    """A gather that shortens a padded batch: the source of each place, and which places are real.

    Attributes:
        index: int64 `[batch, new]`, the place in the longer sequence.
        mask: bool `[batch, new]`, which places hold real tokens.
        filler: bool `[batch, new]`, which places stand on a dropped token because the row has no
            padding of its own left; what they hold must be replaced or masked.
    """

    index: Tensor
    mask: Tensor
    filler: Tensor

    def take(self, x: Tensor) -> Tensor:
        """Gather `[batch or 1, old, ...]` to `[batch, new, ...]`."""
        index = self.index.to(x.device)
        x = x.expand(index.shape[0], *x.shape[1:])
        return x.gather(1, index.reshape(*index.shape, *([1] * (x.ndim - 2))).expand(*index.shape, *x.shape[2:]))

    def take_rows(self, x: Tensor) -> Tensor:
        """Gather `[..., batch or 1, old, d]` to `[..., batch, new, d]`."""
        if x.ndim == 3:
            return self.take(x)
        return torch.stack([self.take_rows(one) for one in x])

    def take_last(self, x: Tensor) -> Tensor:
        """Gather `[..., batch or 1, old]` to `[..., batch, new]`."""
        index = self.index.to(x.device)
        x = x.expand(*x.shape[:-2], *index.shape[:1], x.shape[-1])
        return x.gather(-1, index.expand(*x.shape[:-1], index.shape[-1]))


def shorten(keep: Tensor, valid: Tensor, left: bool) -> Shortening:
    """Return the shortening that keeps `keep & valid`, padded on one side.

    Padding that all rows share stays, and a row's own padding is used first, so keeping everything
    is the identity.

    Args:
        keep: bool `[batch, n]`.
        valid: bool `[batch, n]`, false at padding.
        left: whether padding goes to the left.
    """
    stays = keep & valid
    n = valid.shape[1]
    width = int((stays.sum(dim=1)).max()) + n - int(valid.sum(dim=1).max())
    rank = torch.where(stays, 2, torch.where(valid, 0, 1))
    order = rank.sort(dim=1, stable=True, descending=not left).indices
    index = order[:, n - width :] if left else order[:, :width]
    chosen = rank.gather(1, index)
    # All in the sequence's own order, holes in a mask included; what stands on a dropped token goes to the side.
    place = torch.where(chosen > 0, index, index - n if left else index + n)
    turn = place.argsort(dim=1)
    index, chosen = index.gather(1, turn), chosen.gather(1, turn)
    return Shortening(index, chosen == 2, chosen == 0)
