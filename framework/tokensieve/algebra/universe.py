"""Which tokens there are: one row per group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from tokensieve.errors import AlgebraError


@dataclass(frozen=True, eq=False)
class Universe:
    """The tokens of a batch of groups, padded to one width.

    A row is a group (an image, a tile, a frame or a sample): selections are made within rows and
    never across them.

    What the host has to know of it, `sizes` and `canonical`, is asked of the device once; `knowing` says it beforehand,
    so that nothing waits.

    Attributes:
        valid: bool `[rows, n]`; false where a place holds no token.
        ids: int64 `[rows, n]`; the token's id, unique within its row. Whatever stands at invalid
            places is ignored.
    """

    valid: Tensor
    ids: Tensor

    def __post_init__(self) -> None:
        if self.valid.dtype != torch.bool or self.ids.dtype != torch.int64:
            raise AlgebraError(
                f"a Universe takes valid as bool and ids as int64, not {self.valid.dtype} and {self.ids.dtype}"
            )
        if self.valid.ndim != 2 or self.valid.shape != self.ids.shape:
            raise AlgebraError(
                "a Universe takes valid and ids of one shape [rows, n], "
                f"not {list(self.valid.shape)} and {list(self.ids.shape)}"
            )

    @classmethod
    def full(cls, rows: int, n: int, device: torch.device | str | None = None) -> Universe:
        """Return `rows` groups of `n` tokens each, with ids 0..n-1."""
        ids = torch.arange(n, device=device).expand(rows, n).contiguous()
        return cls(torch.ones(rows, n, dtype=torch.bool, device=device), ids).knowing([n] * rows, canonical=True)

    @classmethod
    def of_counts(cls, counts: list[int], device: torch.device | str | None = None) -> Universe:
        """Return one group per count, ids 0..count-1, padded on the right."""
        n = max(counts, default=0)
        ids = torch.arange(n, device=device).expand(len(counts), n).contiguous()
        limit = torch.tensor(counts, dtype=torch.int64, device=device).reshape(-1, 1)
        return cls(ids < limit, ids).knowing(counts, canonical=True)

    def knowing(self, sizes: Sequence[int], *, canonical: bool) -> Self:
        """Return this universe, which from now on knows what the caller has made so: it is not checked.

        Args:
            sizes: how many tokens each group has.
            canonical: whether they stand by ascending id, before all places without a token.
        """
        vars(self).update(sizes=tuple(sizes), canonical=canonical)
        return self

    def copied(self) -> Universe:
        """Return the same tokens in tensors of their own."""
        twin = Universe(self.valid.clone(), self.ids.clone())
        known = {name: value for name, value in vars(self).items() if name in ("sizes", "canonical")}
        vars(twin).update(known, _same=self._same)
        return twin

    @property
    def rows(self) -> int:
        """The number of groups."""
        return self.valid.shape[0]

    @property
    def n(self) -> int:
        """The padded width."""
        return self.valid.shape[1]

    @property
    def counts(self) -> Tensor:
        """int64 `[rows]`: how many tokens each group has."""
        return self.valid.sum(dim=1)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The counts, on the host."""
        return tuple(self.counts.tolist())

    @cached_property
    def canonical(self) -> bool:
        """Whether the tokens of every group stand by ascending id, before all places without a token."""
        order = self.order()
        return torch.equal(order, torch.arange(self.n, device=self.device).expand_as(order))

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.valid.device

    def order(self) -> Tensor:
        """int64 `[rows, n]`: memory places by ascending id, invalid places last."""
        if vars(self).get("canonical"):
            return torch.arange(self.n, device=self.device).repeat(self.rows, 1)
        last = torch.iinfo(torch.int64).max
        return torch.where(self.valid, self.ids, last).sort(dim=1, stable=True).indices

    @cached_property
    def _same(self) -> object:
        """What copies of one universe have in common."""
        return object()

    def take(self, places: Tensor, valid: Tensor) -> Universe:
        """Return the universe of the tokens at memory `places` `[rows, m]` that are `valid` there."""
        return Universe(valid & self.valid.gather(1, places), self.ids.gather(1, places))

    def same_tokens(self, other: Universe) -> bool:
        """Return whether both hold the same tokens at the same places. Of copies it is known without a look."""
        return self._same is other._same or not bool(self.differs(other))

    def differs(self, other: Universe) -> Tensor:
        """Return whether the tokens or their places are others, a bool scalar."""
        if self.valid.shape != other.valid.shape:
            return torch.ones((), dtype=torch.bool, device=self.device)
        return ((self.valid != other.valid) | ((self.ids != other.ids) & self.valid)).any()


# Stafford's "Mix13" constants for the splitmix64 finaliser, as signed 64-bit integers.
_MIX = (-4658895280553007687, -7723592293110705685)
_GOLDEN = -7046029254386353131


def _mix(x: Tensor) -> Tensor:
    for shift, factor in ((30, _MIX[0]), (27, _MIX[1])):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def draw(seed: int, key: Tensor, ids: Tensor) -> Tensor:
    """Return one uniform number in [0, 1) per token, a pure function of (seed, key, id).

    A counter-based generator (splitmix64) instead of a stream: the number of a token depends
    neither on its place in memory nor on its neighbours in the batch.

    Args:
        seed: any integer; taken modulo 2^64.
        key: int64 `[rows]`, the sample keys.
        ids: int64 `[rows, n]`.

    Returns:
        float64 `[rows, n]`.
    """
    wrapped = (seed + 2**63) % 2**64 - 2**63
    base = _mix(torch.full_like(key, wrapped) * _GOLDEN + _GOLDEN)
    base = _mix(base + key * _GOLDEN)
    bits = _mix(base.unsqueeze(1) + (ids + 1) * _GOLDEN)
    return ((bits >> 11) & ((1 << 53) - 1)).double() / 2**53
