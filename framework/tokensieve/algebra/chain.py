"""Chains: nested selections, their algebra, and the cut.

A strategy that orders tokens gives, for every m, the set A_m of its m best: a chain
A_0 ⊆ A_1 ⊆ ... ⊆ A_n. A `Chain` holds one integer per token, its *level*: the token is in A_m iff
its level is below m. A ranking has the levels 0..n-1; a fixed set has -1 (always in) and n (never
in). Set by set, `&` is then the larger level, `|` the smaller, `~` is n-1-level, all exact.

Reading on demand: a chain carries its *depth*. Levels below the depth are right; a level at or
beyond it is only known to be at least that. Every operation here keeps lower bounds lower bounds,
so a cut can tell whether what it takes is settled.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokensieve.algebra.budget import apportion
from tokensieve.algebra.doubts import refuse_if
from tokensieve.algebra.shown import ShownChain
from tokensieve.algebra.universe import Universe
from tokensieve.errors import AlgebraError, ScoreError


@dataclass(frozen=True, eq=False)
class Leaf:
    """An operand's own order, kept to break ties between equal levels.

    Attributes:
        key: whose order it is, anything hashable; leaves of one key, sign and state are one leaf.
        place: int64 `[rows, n]`, the token's place in that order.
        depth: places below it are right, the others lower bounds.
        negated: whether this is the reversed order.
        fixed: whether the operand stands under `[m]`.
    """

    key: object
    place: Tensor
    depth: int
    negated: bool = False
    fixed: bool = False

    @property
    def identity(self) -> tuple[object, bool, bool]:
        """What makes two leaves one."""
        return self.key, self.negated, self.fixed


@dataclass(frozen=True, eq=False, repr=False)
class Chain(ShownChain):
    """A nested family of selections of a universe.

    Attributes:
        universe: the tokens.
        level: int64 `[rows, n]`; see the module. Meaningless at invalid places.
        depth: levels below it are right; `universe.n` or more means all are.
        leaves: the operands' orders, which break ties of level in the cut.
        notes: what the ledger should say about how it came to be, such as a fallback.
        ranking: whether it is one order, so that each level below the depth is one token's.
        picked: the memory places of each row's tokens in the order of picking, where the host has them already.
    """

    universe: Universe
    level: Tensor
    depth: int
    leaves: tuple[Leaf, ...]
    notes: tuple[str, ...] = ()
    ranking: bool = False
    picked: Sequence[Sequence[int]] | None = None

    @classmethod
    def from_scores(cls, universe: Universe, scores: Tensor, key: object, notes: tuple[str, ...] = ()) -> Chain:
        """Rank tokens by falling score, ties by ascending id.

        Args:
            universe: the tokens.
            scores: `[rows, n]`, any real dtype; infinities are allowed.
            key: whose order it is.
            notes: what the ledger should say about it.

        Raises:
            ScoreError: if a valid token's score is NaN, or the scores are no real tensor `[rows, n]`.
        """
        _check_tensor(scores, universe, key, "scores")
        if scores.shape != universe.valid.shape:
            raise ScoreError(
                f"{key!r} gave scores of shape {list(scores.shape)}; expected one a token, {list(universe.valid.shape)}"
            )
        if scores.is_complex():
            raise ScoreError(f"{key!r} gave complex scores, which have no order; give their size, or their real part")
        refuse_if(
            (scores.isnan() & universe.valid).any(),
            lambda: ScoreError(f"{key!r} gave NaN as a score; a score is a number or an infinity"),
        )
        # Invalid places go last whatever their score says: they are the lowest, and stand last before they are sorted.
        ranked = scores.byte() if scores.dtype == torch.bool else scores
        lowest = -torch.inf if ranked.is_floating_point() else torch.iinfo(ranked.dtype).min
        ranked = ranked.masked_fill(~universe.valid, lowest)
        if universe.canonical:
            order = ranked.sort(dim=1, descending=True, stable=True).indices
        else:
            by_id = universe.order()
            order = by_id.gather(1, ranked.gather(1, by_id).sort(dim=1, descending=True, stable=True).indices)
        turn = torch.arange(universe.n, device=order.device).expand_as(order)
        place = order.scatter(1, order, turn)
        return cls(universe, place, universe.n, (Leaf(key, place, universe.n),), notes, ranking=True)

    @classmethod
    def from_picks(
        cls,
        universe: Universe,
        picks: Tensor,
        key: object,
        notes: tuple[str, ...] = (),
        picked: Sequence[Sequence[int]] | None = None,
    ) -> Chain:
        """Rank tokens by an order of picking, best first.

        Args:
            universe: the tokens.
            picks: int64 `[rows, depth]`, memory places; each row names different valid places,
                and -1 or an invalid place once its tokens are used up.
            key: whose order it is.
            notes: what the ledger should say about it.
            picked: the picks, where the host has them already.

        Raises:
            ScoreError: if a token is picked twice, or fewer than min(depth, tokens) are picked, or the picks are no
                places in a tensor of that form on the tokens' device.
        """
        _check_tensor(picks, universe, key, "picks")
        if picks.dtype != torch.int64 or picks.ndim != 2 or len(picks) != universe.rows:
            raise ScoreError(
                f"{key!r} gave picks as {picks.dtype} {list(picks.shape)}; expected int64 [{universe.rows}, depth]"
            )
        # What is no place counts as none, so that nothing fails before the error is raised.
        known = picks.clamp(-1, universe.n - 1)
        refuse_if(
            (known != picks).any(),
            lambda: ScoreError(
                f"{key!r} picked the places {int(picks.min())} to {int(picks.max())}; "
                f"there are 0 to {universe.n - 1}, and -1 for none"
            ),
        )
        depth = picks.shape[1]
        turn = torch.arange(depth, device=picks.device).expand_as(picks)
        spill = torch.full((universe.rows, universe.n + 1), depth, device=picks.device)
        spill.scatter_(1, torch.where(known < 0, universe.n, known), turn)
        place = torch.where(universe.valid, spill[:, : universe.n], universe.n)
        picked_of = ((place < depth) & universe.valid).sum(dim=1)
        refuse_if(
            (picked_of != universe.counts.clamp(max=depth)).any(),
            lambda: ScoreError(
                f"{key!r} picked {picked_of.tolist()} different tokens in its first {depth} picks of "
                f"{universe.counts.tolist()}; each pick must name another token"
            ),
        )
        return cls(universe, place, depth, (Leaf(key, place, depth),), notes, True, picked)

    @classmethod
    def from_set(cls, universe: Universe, members: Tensor, key: object) -> Chain:
        """Return the chain of a fixed set: its members are always in, the others never.

        Args:
            universe: the tokens.
            members: bool `[rows, n]`.
            key: whose set it is.
        """
        _check_tensor(members, universe, key, "members")
        if members.shape != universe.valid.shape or members.dtype != torch.bool:
            raise ScoreError(
                f"{key!r} gave members as {members.dtype} {list(members.shape)}; "
                f"expected bool {list(universe.valid.shape)}"
            )
        level = _fixed(universe, members)
        return cls(universe, level, universe.n, (Leaf(key, level, universe.n),))

    def __post_init__(self) -> None:
        if self.level.dtype != torch.int64 or self.level.shape != self.universe.valid.shape:
            raise AlgebraError(
                f"levels are int64 {list(self.universe.valid.shape)}, not {self.level.dtype} {list(self.level.shape)}"
            )

    @property
    def reach(self) -> int:
        """The depth to which every level and every leaf's place is right."""
        return min([self.depth, *(leaf.depth for leaf in self.leaves)])

    @property
    def complete(self) -> bool:
        """Whether every level and every leaf's place is right."""
        return self.reach >= self.universe.n or self.reach >= self._deepest()

    @cached_property
    def level_on_host(self) -> NDArray[np.int64]:
        """The levels in NumPy, fetched once, and not even that where the picks are there already."""
        if self.picked is None:
            return np.asarray(self.level.tolist(), dtype=np.int64).reshape(self.level.shape)
        level = np.full(self.level.shape, self.depth, dtype=np.int64)
        for row, picks in enumerate(self.picked):
            own = [place for place in picks if place >= 0]
            level[row, own] = np.arange(len(own))
        return level

    def members(self, m: int | Tensor) -> Tensor:
        """Return bool `[rows, n]`: the set A_m. Right for m up to the depth."""
        size = m.unsqueeze(1) if isinstance(m, Tensor) else m
        return (self.level < size) & self.universe.valid

    def complement(self) -> Chain:
        """Return ~A: (~A)_m is everything but A_{n-m}.

        Raises:
            AlgebraError: if the chain was not read to the end.
        """
        if not self.complete:
            raise AlgebraError(
                f"a complement needs all places; this chain was read to depth {self.reach} (a composer that takes "
                "complements sets whole = True)"
            )
        last = self.universe.counts.unsqueeze(1) - 1
        leaves = tuple(
            replace(leaf, place=last - leaf.place, negated=not leaf.negated, depth=self.universe.n)
            for leaf in self.leaves
        )
        return Chain(self.universe, last - self.level, self.universe.n, leaves, self.notes)

    def fix(self, m: int | Tensor) -> Chain:
        """Return A[m]: the fixed set of the m best, chosen by this chain's own cut.

        Args:
            m: a size, or one a row, int64 `[rows]`.
        """
        leaves = _distinct(replace(leaf, fixed=True) for leaf in self.leaves)
        return Chain(self.universe, _fixed(self.universe, self.cut(m)), self.universe.n, leaves, self.notes)

    def ordered(self, key: object) -> Chain:
        """Return this chain as a total order: the order in which its cut takes tokens."""
        order, known = self._order(None)
        depth = self.universe.n
        if not self.complete:
            prefix = known.long().cumprod(dim=1).sum(dim=1)
            depth = min([depth, *prefix[prefix < self.universe.counts].tolist()])
        return Chain.from_picks(self.universe, order[:, :depth], key, self.notes)

    def queue(self) -> Tensor:
        """Return memory places `[rows, n]` in the order of the cut, invalid ones last."""
        return self._order(None)[0]

    def settled(self, k: int | Tensor) -> bool:
        """Return whether the depth read is enough to cut to k."""
        if self.complete or (self.ranking and isinstance(k, int) and k <= self.depth):
            return True
        _, known = self._order(None)
        turn = torch.arange(self.universe.n, device=known.device)
        return bool((known | (turn >= self._sizes(k).unsqueeze(1))).all())

    def cut(self, k: int | Tensor, by: Chain | None = None) -> Tensor:
        """Take exactly min(k, n) tokens of every group: the only way to a selection.

        Tokens are taken in the order (level, `by`, id). Where `by` is not given, tokens of one
        level are ordered by the sum of their places in the distinct leaves. A leaf not under `[m]`
        counts no deeper than one past the token's level, so a tie never asks for more depth than
        the cut itself; a leaf under `[m]` counts its place in its own order.

        Args:
            k: a size, or one a row, int64 `[rows]`.
            by: a chain whose own order breaks ties of level; it must be complete.

        Returns:
            bool `[rows, n]` with exactly min(k, n) true in each row.

        Raises:
            AlgebraError: if k is negative, the chain was not read deep enough (see `settled`), or
                `by` holds other tokens.
        """
        sizes = self._sizes(k)
        _common([self] if by is None else [self, by])
        if self.ranking and (by is None or by.complete):
            # Levels below the depth are all different, so nothing is tied.
            if not self.complete:
                refuse_if((sizes > self.depth).any(), lambda: self._too_shallow(sizes))
            return self.members(sizes)
        order, known = self._order(by)
        turn = torch.arange(self.universe.n, device=order.device)
        taken = turn < sizes.unsqueeze(1)
        if not (self.complete and (by is None or by.complete)):
            refuse_if(
                (taken & ~known).any(),
                lambda: self._too_shallow(sizes),
            )
        return torch.zeros_like(self.universe.valid).scatter_(1, order, taken)

    def _too_shallow(self, sizes: Tensor) -> AlgebraError:
        return AlgebraError(
            f"this chain was read to depth {self.reach}, which does not settle a cut to {sizes.tolist()} tokens; "
            "read it deeper"
        )

    def _sizes(self, k: int | Tensor) -> Tensor:
        if isinstance(k, Tensor):
            refuse_if((k < 0).any(), lambda: AlgebraError(f"a cut takes 0 or more tokens, not {k.min().item()}"))
            return torch.minimum(k, self.universe.counts)
        if k < 0:
            raise AlgebraError(f"a cut takes 0 or more tokens, not {k}")
        return self.universe.counts.clamp(max=k)

    def _deepest(self) -> int:
        return max(self.universe.sizes, default=0)

    def _ties(self, by: Chain | None) -> tuple[Tensor, Tensor]:
        """Return the tie-breaking key `[rows, n]`, a lower bound, and where it is right."""
        counts = self.universe.counts.unsqueeze(1)
        known = (self.level < self.depth) | (counts <= self.depth)
        if by is not None:
            order = by.ordered("by")
            return order.level, known & ((order.level < order.depth) | (counts <= order.depth))
        ties = torch.zeros_like(self.level)
        for leaf in self.leaves:
            if leaf.fixed:
                ties = ties + leaf.place + 1
                known = known & ((leaf.place < leaf.depth) | (counts <= leaf.depth))
            else:
                ties = ties + torch.minimum(leaf.place, self.level + 1) + 1
        return ties, known

    def _order(self, by: Chain | None) -> tuple[Tensor, Tensor]:
        """Return memory places in cutting order `[rows, n]`, and which of them are settled."""
        ties, known = self._ties(by)
        # A place exceeds n only where it is invalid, so ties stay below the stride.
        stride = (self.universe.n + 2) * (len(self.leaves) + 1)
        key = (self.level + 1) * stride + ties
        key = torch.where(self.universe.valid, key, torch.iinfo(torch.int64).max)
        if self.universe.canonical:
            order = key.sort(dim=1, stable=True).indices
        else:
            by_id = self.universe.order()
            order = by_id.gather(1, key.gather(1, by_id).sort(dim=1, stable=True).indices)
        return order, known.gather(1, order)


def at_least(j: int, chains: Sequence[Chain]) -> Chain:
    """Return the chain of tokens that at least `j` of the chains hold: the j-th smallest level.

    `j = 1` is the union, `j = len(chains)` the intersection.

    Raises:
        AlgebraError: if j is not between 1 and the number of chains, or their universes differ.
    """
    if not 1 <= j <= len(chains):
        raise AlgebraError(f"at_least takes 1 to {len(chains)} of {len(chains)} operands, not {j}")
    universe = _common(chains)
    levels = [chain.level for chain in chains]
    if j in (1, len(chains)):
        level = reduce(torch.minimum if j == 1 and len(chains) > 1 else torch.maximum, levels)
    else:
        level = torch.stack(levels).sort(dim=0).values[j - 1]
    leaves = _distinct(leaf for chain in chains for leaf in chain.leaves)
    return Chain(universe, level, min(chain.depth for chain in chains), leaves, noted(chains))


def fuse(chains: Sequence[Chain], weights: Sequence[Fraction], key: object) -> Chain:
    """Rank by the weighted sum of places in the chains' total orders, ties by id.

    Raises:
        AlgebraError: if a chain is incomplete, a weight is negative, or no weight is positive.
    """
    universe = _common(chains)
    if any(weight < 0 for weight in weights) or not any(weights):
        raise AlgebraError(f"weights are not negative and not all zero, not {[str(w) for w in weights]}")
    if not all(chain.complete for chain in chains):
        raise AlgebraError("rank fusion needs all places of its operands")
    unit = math.lcm(*(weight.denominator for weight in weights))
    whole = [int(weight * unit) for weight in weights]
    if sum(whole) * (universe.n + 1) >= 2**62:
        raise AlgebraError("the weights are too finely graded to be added exactly; use simpler ones")
    total = torch.zeros_like(chains[0].level)
    for chain, weight in zip(chains, whole, strict=True):
        total = total + weight * chain.ordered(key).level
    return Chain.from_scores(universe, -total, key, noted(chains))


def interleave(chains: Sequence[Chain], shares: Sequence[Fraction], key: object) -> Chain:
    """Deal places to the chains' total orders by Sainte-Laguë, each token once.

    A chain whose next best is already taken passes on to its next one, so every prefix holds each
    chain's own share.
    """
    universe = _common(chains)
    orders = [chain.ordered(key) for chain in chains]
    depth = min(universe.n, *(order.depth for order in orders))
    turns = apportion(shares, [depth] * len(shares))
    seats = [next(turns) for _ in range(depth)]
    queues = [order.queue().tolist() for order in orders]
    counts = universe.counts.tolist()
    picks = torch.full((universe.rows, depth), -1, dtype=torch.int64)
    for row, size in enumerate(counts):
        heads = [iter(queue[row]) for queue in queues]
        taken: set[int] = set()
        for turn in range(min(depth, size)):
            place = next(p for p in heads[seats[turn]] if p not in taken)
            taken.add(place)
            picks[row, turn] = place
    return Chain.from_picks(universe, picks.to(universe.device), key, noted(chains))


def noted(chains: Iterable[Chain]) -> tuple[str, ...]:
    """Return the notes of all chains, each once, in their order."""
    return tuple(dict.fromkeys(note for chain in chains for note in chain.notes))


def _check_tensor(value: object, universe: Universe, key: object, what: str) -> None:
    """Raise a `ScoreError` for what is no dense tensor on the device of the tokens."""
    if not isinstance(value, Tensor):
        raise ScoreError(f"{key!r} gave {what} as {type(value).__name__}; expected a torch.Tensor")
    if value.device != universe.device:
        raise ScoreError(f"{key!r} gave {what} on {value.device}, and its tokens are on {universe.device}")
    odd = value.is_nested or value.is_quantized or (value.dtype.itemsize == 1 and value.is_floating_point())
    if odd or value.layout != torch.strided:
        raise ScoreError(f"{key!r} gave {what} as {value.dtype}, {value.layout}; expected a dense tensor of numbers")


def _fixed(universe: Universe, members: Tensor) -> Tensor:
    return torch.where(members, -1, universe.counts.unsqueeze(1))


def _common(chains: Sequence[Chain]) -> Universe:
    first = chains[0].universe
    if not all(chain.universe.same_tokens(first) for chain in chains):
        raise AlgebraError("composed chains must hold the same tokens")
    return first


def _distinct(leaves: Iterable[Leaf]) -> tuple[Leaf, ...]:
    """Return each leaf once, as deep as it was read."""
    deepest: dict[tuple[object, bool, bool], Leaf] = {}
    for leaf in leaves:
        known = deepest.get(leaf.identity)
        if known is None or known.depth < leaf.depth:
            deepest[leaf.identity] = leaf
    return tuple(deepest.values())
