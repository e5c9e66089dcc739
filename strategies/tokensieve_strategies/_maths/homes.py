"""Merging into homes: of each token which token it joins, and with which weight, as chains and reductions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice

import torch
from torch import Tensor

from tokensieve import Chain, Reduction, Tokens
from tokensieve.algebra.budget import apportion
from tokensieve.composers.expression import Expression
from tokensieve_strategies._maths.order import stack_orders


@dataclass(frozen=True, eq=False)
class Homes:
    """What becomes of the n tokens of a group.

    Attributes:
        home: int64 `[n]`, the place that each token joins, its own where it stays, -1 where it is dropped.
        weight: float64 `[n]`, its share of what stands there.
    """

    home: Tensor
    weight: Tensor

    @property
    def kept(self) -> Tensor:
        """The places that stay, int64 `[k]`, ascending."""
        return (self.home == torch.arange(len(self.home), device=self.home.device)).nonzero().flatten()


Merge = Callable[[int, int], Homes]
"""What becomes of the tokens of a row, by the row and the number of places."""


def chain_of(source: Expression, tokens: Tokens, depth: int, merge: Merge, notes: tuple[str, ...] = ()) -> Chain:
    """Return the chain whose first `depth` places are those that stay."""
    orders = []
    for row, n in enumerate(tokens.universe.sizes):
        kept = merge(row, min(depth, n)).kept
        rest = torch.ones(n, dtype=torch.bool, device=kept.device).index_fill(0, kept, False)
        orders.append(torch.cat([kept, rest.nonzero().flatten()]))
    return Chain.from_picks(tokens.universe, stack_orders(orders, depth, tokens.ids), source, notes)


def reduction_of(tokens: Tokens, keep: Tensor, merge: Merge) -> Reduction:
    """Return the reduction to `keep` tokens a row, int64 `[rows]`."""
    kept = torch.zeros_like(tokens.valid)
    home = torch.full_like(tokens.ids, -1)
    weight = torch.zeros(tokens.valid.shape, dtype=torch.float64, device=tokens.valid.device)
    for row, (n, k) in enumerate(zip(tokens.universe.sizes, keep.tolist(), strict=True)):
        found = merge(row, min(k, n))
        kept[row, found.kept] = True
        home[row, :n], weight[row, :n] = found.home, found.weight
    dropped = Reduction.drop(tokens.universe, kept)
    slot = torch.where(home >= 0, dropped.slot.gather(1, home.clamp(min=0)), -1)
    return Reduction(slot, weight, dropped.valid)


def shares(sizes: Sequence[int], number: int) -> list[int]:
    """Return how many of `number` places go to each party by its size (Sainte-Laguë), to none more than its size."""
    turns = [*islice(apportion([Fraction(size) for size in sizes], sizes), number)]
    return [turns.count(party) for party in range(len(sizes))]


@dataclass(frozen=True, eq=False)
class Part:
    """Units that share a number of places, such as the still places of a run of frames.

    Attributes:
        members: int64 `[units, tokens]`, the places of each unit's tokens, the one it stands in first.
        vectors: `[units, d]`.
        attention: `[units]`, where it matters.
    """

    members: Tensor
    vectors: Tensor
    attention: Tensor | None = None


Join = Callable[[Part, int], tuple[Tensor, Tensor]]
"""Which unit each unit of a part joins in a number of places, -1 for none, and its share of what they become."""


def merge_parts(parts: Sequence[Part], n: int, k: int, join: Join) -> Homes:
    """Return the homes of n tokens in k places, which parts share by how many units they have (Sainte-Laguë).

    Where there are more places than units, tokens that are not the first of their unit come in, too.
    """
    device = parts[0].members.device if parts else None
    home = torch.full((n,), -1, device=device)
    weight = torch.zeros(n, dtype=torch.float64, device=device)
    stay = torch.zeros(n, dtype=torch.bool, device=device)
    for part, places in zip(parts, shares([len(part.members) for part in parts], k), strict=True):
        if places:
            nearest, share = join(part, places)
            first = part.members[:, 0]
            stay[first[nearest[nearest >= 0]]] = True
            home[part.members] = first[nearest.clamp(min=0)].where(nearest >= 0, -1).unsqueeze(1)
            weight[part.members] = (share / part.members.shape[1]).unsqueeze(1)
    later = (~stay).nonzero().flatten()[: k - int(stay.sum())]
    stay[later], home[later], weight[later] = True, later, 1.0
    total = torch.zeros_like(weight).index_add(0, home.clamp(min=0), weight.where(home >= 0, 0.0))
    return Homes(home, (weight / total[home.clamp(min=0)].clamp(min=1e-300)).where(home >= 0, 0.0))


def balanced(home: Tensor, balance: float) -> Tensor:
    """Return weights by which a home counts `balance` and the mean of those that joined it 1 - `balance`.

    Args:
        home: int64 `[n]`, as in `Homes`.
        balance: in (0, 1]; a home that none joined counts 1.

    Returns:
        float64 `[n]`, 0 for what is dropped.
    """
    own = home == torch.arange(len(home), device=home.device)
    joined = home[(home >= 0) & ~own].bincount(minlength=len(home))
    alone = torch.where(joined > 0, balance, 1.0).double()
    shared = (1 - balance) / joined[home.clamp(min=0)].clamp(min=1).double()
    return torch.where(own, alone, shared).where(home >= 0, 0.0)
