"""Reductions: tokens to slots with weights. Dropping and merging are both this."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokensieve.algebra.doubts import refuse_if
from tokensieve.algebra.universe import Universe
from tokensieve.errors import AlgebraError


@dataclass(frozen=True, eq=False)
class Reduction:
    """A map from the tokens of each row to slots, linear in the tokens' vectors.

    Slot s becomes the sum of `weight * x` over the tokens mapped to it. Reductions compose: `then`
    is associative, and `identity` is its neutral element.

    Attributes:
        slot: int64 `[rows, n]`, the slot of each token, -1 for none.
        weight: `[rows, n]`, the share of its vector that goes there.
        valid: bool `[rows, slots]`, which slots are in use.
    """

    slot: Tensor
    weight: Tensor
    valid: Tensor

    @classmethod
    def identity(cls, universe: Universe) -> Reduction:
        """Return the reduction that changes nothing."""
        own = torch.arange(universe.n, device=universe.device).expand_as(universe.ids)
        ones = universe.valid.double()
        return cls(torch.where(universe.valid, own, -1), ones, universe.valid)

    @classmethod
    def drop(cls, universe: Universe, kept: Tensor, width: int | None = None) -> Reduction:
        """Return the reduction that keeps the tokens of a mask `[rows, n]`, in id order.

        Args:
            universe: the tokens.
            kept: bool `[rows, n]`.
            width: how many are kept in the row that keeps most, where that is known.
        """
        order = universe.order()
        inside = kept & universe.valid
        turn = inside.gather(1, order).cumsum(dim=1) - 1
        slot = torch.empty_like(universe.ids).scatter_(1, order, turn)
        sizes = inside.sum(dim=1)
        if width is None:
            width = int(sizes.max()) if universe.rows else 0
        valid = torch.arange(width, device=sizes.device) < sizes.unsqueeze(1)
        return cls(torch.where(inside, slot, -1), inside.double(), valid)

    @classmethod
    def merge(
        cls, universe: Universe, kept: Tensor, partner: Tensor, sizes: Tensor, width: int | None = None
    ) -> Reduction:
        """Return the reduction that folds every token into a kept one, by size-weighted mean.

        Args:
            universe: the tokens.
            kept: bool `[rows, n]`, the tokens that stay.
            partner: int64 `[rows, n]`, the memory place of the kept token that each token joins.
            sizes: `[rows, n]`, how many original tokens each token stands for.
            width: how many are kept in the row that keeps most, where that is known.
        """
        dropped = cls.drop(universe, kept, width)
        own = torch.arange(universe.n, device=universe.device).expand_as(universe.ids)
        slot = dropped.slot.gather(1, torch.where(kept, own, partner))
        slot = torch.where(universe.valid, slot, -1)
        refuse_if(
            ((slot < 0) & universe.valid & dropped.valid.any(dim=1, keepdim=True)).any(),
            lambda: AlgebraError("a merge needs a kept partner for every token"),
        )
        mass = torch.where(slot >= 0, sizes.double(), 0.0)
        total = torch.zeros(universe.rows, dropped.valid.shape[1] + 1, dtype=mass.dtype, device=mass.device)
        total.scatter_add_(1, _bin(slot, total), mass)
        weight = mass / total.gather(1, _bin(slot, total)).clamp(min=torch.finfo(mass.dtype).tiny)
        return cls(slot, weight, dropped.valid)

    def then(self, following: Reduction) -> Reduction:
        """Return this reduction followed by one of its slots."""
        if following.slot.shape != self.valid.shape:
            raise AlgebraError(
                f"a reduction to {list(self.valid.shape)} slots cannot be followed by one of "
                f"{list(following.slot.shape)} tokens"
            )
        inner = self.slot.clamp(min=0)
        gone = self.slot < 0
        if following.slot.shape[1] == 0:
            return Reduction(torch.full_like(self.slot, -1), torch.zeros_like(self.weight), following.valid)
        slot = torch.where(gone, -1, following.slot.gather(1, inner))
        weight = torch.where(slot < 0, 0.0, self.weight * following.weight.gather(1, inner))
        return Reduction(slot, weight, following.valid)

    def apply(self, x: Tensor) -> Tensor:
        """Return the slots' vectors `[rows, slots, d]` of tokens `x` `[rows, n, d]`, in x's dtype.

        A slot that is one token alone is that token, to the bit.
        """
        width = self.valid.shape[1]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        # Negative zero is what addition leaves unchanged: 0.0 would lose the sign of a token's -0.0.
        out = wide.new_full((x.shape[0], width + 1, x.shape[2]), -0.0)
        index = self.slot.where(self.slot >= 0, width).unsqueeze(-1).expand_as(wide)
        out.scatter_add_(1, index, wide * self.weight.to(wide.dtype).unsqueeze(-1))
        return out[:, :width].to(x.dtype)

    def mass(self, sizes: Tensor) -> Tensor:
        """Return how many original tokens each slot stands for, `[rows, slots]`."""
        total = torch.zeros(sizes.shape[0], self.valid.shape[1] + 1, dtype=sizes.dtype, device=sizes.device)
        total.scatter_add_(1, _bin(self.slot, total), torch.where(self.slot >= 0, sizes, 0))
        return total[:, :-1]


def _bin(slot: Tensor, total: Tensor) -> Tensor:
    """Send the tokens without a slot to the last bin."""
    return slot.where(slot >= 0, total.shape[1] - 1)


def nearest(x: Tensor, kept: Tensor, block: int = 2048) -> Tensor:
    """Return the place of the kept token most similar by cosine to each token, int64 `[rows, n]`.

    The lowest place wins ties; a kept token's nearest is itself. Streamed in blocks of tokens.

    Args:
        x: `[rows, n, d]`, by ascending id.
        kept: bool `[rows, n]`.
        block: tokens compared at once.
    """
    unit = torch.nn.functional.normalize(x.float(), dim=-1)
    found = [
        (unit[:, start : start + block] @ unit.transpose(1, 2))
        .masked_fill(~kept.unsqueeze(1), -torch.inf)
        .argmax(dim=2)
        for start in range(0, x.shape[1], block)
    ]
    own = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
    return torch.where(kept, own, torch.cat(found, dim=1)) if found else own
