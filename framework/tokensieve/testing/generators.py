"""Random inputs for the laws, as hypothesis strategies.

The batches are hard on purpose: rows of different lengths, invalid places anywhere, ids in any order and with gaps, few
different feature values (so that there are many ties and duplicates), several images in a row. Features are small
integers, on which every law is exact.
"""

from __future__ import annotations

import operator
from dataclasses import replace
from fractions import Fraction
from typing import Any, ClassVar

import hypothesis.strategies as st
import torch
from hypothesis.strategies import DrawFn, SearchStrategy
from torch import Tensor

from tokensieve.algebra.budget import Keep
from tokensieve.algebra.chain import Chain, Leaf
from tokensieve.algebra.reduction import Reduction
from tokensieve.algebra.universe import Universe
from tokensieve.composers.expression import Best, Expression, Then
from tokensieve.composers.fusion import AtLeast, Borda, Quota, Weighted
from tokensieve.composers.groups import PerGroup
from tokensieve.composers.streaming import Stream
from tokensieve.evidence import GRID_COLUMNS, Evidence, Tokens
from tokensieve.strategy import Chooser, Ranker, Scorer
from tokensieve.testing.samples import KINDS, sample

COLUMNS = 3
"""How many features the tokens of `batches` have."""
_GROUPS: tuple[dict[str, Any], ...] = (
    *({"by": column} for column in GRID_COLUMNS),
    {"by": "window", "size": 2},
    {"by": "window", "size": 3},
    {"by": "segment", "threshold": 0.5},
)


class ByFeature(Scorer):
    """Ranks by one feature, the largest first."""

    name: ClassVar[str] = "by_feature"

    column: int = 0

    def score(self, tokens: Tokens) -> Tensor:
        """Return the feature."""
        return tokens.features[..., self.column]


class PickedByFeature(Ranker):
    """Ranks by one feature, the largest first, and only as deep as it is read.

    Beyond the depth its places are wrong, as lower bounds may be: anything from the depth to the true place.
    """

    name: ClassVar[str] = "picked_by_feature"

    column: int = 0

    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Return a chain whose first `depth` places are right."""
        true = Chain.from_scores(tokens.universe, tokens.features[..., self.column], self)
        beyond = depth + (true.level * 7919) % (true.level - depth + 1).clamp(min=1)
        place = torch.where(true.level < depth, true.level, beyond)
        return Chain(tokens.universe, place, depth, (Leaf(self, place, depth),))


class SpreadByFeature(Ranker):
    """Chooses k tokens at even distances in the order of one feature: another set for every k."""

    name: ClassVar[str] = "spread_by_feature"
    nested: ClassVar[bool] = False

    column: int = 0

    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Return the places i * n / k of the order, for i < k, in id order."""
        order = Chain.from_scores(tokens.universe, tokens.features[..., self.column], self)
        n = tokens.universe.counts.unsqueeze(1)
        size = n.clamp(max=depth)
        # The last i with i * n / k up to the token's place lies there exactly.
        i = (order.level * size + size - 1) // n.clamp(min=1)
        chosen = (i * n // size.clamp(min=1) == order.level) & (i < size)
        return replace(Chain.from_scores(tokens.universe, chosen.double(), self), depth=tokens.universe.n)


class AtLeastFeature(Chooser):
    """Chooses the tokens with one feature at least `floor`: none, some or all of them."""

    name: ClassVar[str] = "at_least_feature"

    column: int = 0
    floor: int = 1

    def choose(self, tokens: Tokens) -> Chain:
        """Return the set."""
        return Chain.from_set(tokens.universe, tokens.features[..., self.column] >= self.floor, self)


def _numbers(draw: DrawFn, *shape: int) -> Tensor:
    """Return random integers 0..255, int64 of `shape`. They are drawn as bytes, in one draw, and shrink to zeros."""
    size = 1
    for side in shape:
        size *= side
    return torch.tensor(list(draw(st.binary(min_size=size, max_size=size))), dtype=torch.int64).reshape(shape)


@st.composite
def universes(draw: DrawFn, max_rows: int = 4, max_n: int = 24, min_rows: int = 1) -> Universe:
    """Return ragged universes: up to `max_rows` groups of 0 to `max_n` tokens, padded anywhere.

    Ids are unique in a row, in any memory order, with gaps, and meaningless values at invalid places.
    """
    rows = draw(st.integers(min_rows, max_rows))
    n = draw(st.integers(0, max_n))
    # Every fourth row is full: otherwise there would be little to choose from.
    valid = (_numbers(draw, rows, n) % 8 > 0) | (_numbers(draw, rows, 1) % 4 == 0)
    ids = (_numbers(draw, rows, n) % 3 + 1).cumsum(dim=1) - 1
    ids = ids.gather(1, _numbers(draw, rows, n).sort(dim=1, stable=True).indices)
    return Universe(valid, torch.where(valid, ids, ids[:, :1]))


@st.composite
def batches(draw: DrawFn, max_rows: int = 4, max_n: int = 24, of: SearchStrategy[Universe] | None = None) -> Tokens:
    """Return tokens with `COLUMNS` small integers as features, and a grid of several images in a row.

    Args:
        draw: from hypothesis.
        max_rows: the most groups.
        max_n: the most tokens in a group.
        of: where the universes come from, instead of `universes(max_rows, max_n)`.
    """
    universe = draw(universes(max_rows, max_n) if of is None else of)
    span = draw(st.sampled_from([2, 3, 6, 40, 1]))
    features = _numbers(draw, universe.rows, universe.n, COLUMNS) % span - span // 3
    grid = _numbers(draw, universe.rows, universe.n, len(GRID_COLUMNS)) % torch.tensor([3, 2, 2, 4, 4])
    evidence = {Evidence.FEATURES: features.double(), Evidence.GRID: grid}
    return Tokens(universe, evidence, keys=torch.arange(universe.rows))


def samples(max_rows: int = 3, max_n: int = 11) -> SearchStrategy[Tokens]:
    """Return tokens with every kind of evidence, with and without texts, in canonical form."""
    return st.builds(
        sample,
        counts=st.lists(st.integers(0, max_n), min_size=1, max_size=max_rows),
        kind=st.sampled_from(KINDS),
        seed=st.integers(0, 999),
        text=st.sampled_from([(2,), (0,), (1, 0, 3)]),
    )


def leaves() -> SearchStrategy[Expression]:
    """Return strategies of every kind over the features of `batches`."""
    column = st.integers(0, COLUMNS - 1)
    return st.one_of(
        st.builds(ByFeature, column=column),
        st.builds(PickedByFeature, column=column),
        st.builds(AtLeastFeature, column=column, floor=st.integers(-1, 3)),
    )


def rankings() -> SearchStrategy[Expression]:
    """Return strategies that order tokens, over the features of `batches`."""
    column = st.integers(0, COLUMNS - 1)
    return st.one_of(st.builds(ByFeature, column=column), st.builds(PickedByFeature, column=column))


def fractions() -> SearchStrategy[Fraction]:
    """Return fractions in (0, 1]."""
    return st.integers(1, 12).flatmap(lambda q: st.integers(1, q).map(lambda p: Fraction(p, q)))


def keeps(most: int = 26) -> SearchStrategy[Keep]:
    """Return budgets: counts up to `most`, fractions, decimals and percentages, but not `auto`."""
    return st.one_of(
        st.integers(1, most).map(Keep.of),
        fractions().map(Keep.of),
        st.sampled_from(["0.25", "1.0", ".5", "33.3%", "100%", "1/9", "0.3333333333333333"]).map(Keep.of),
    )


def lattices(of: SearchStrategy[Expression] | None = None, max_leaves: int = 5) -> SearchStrategy[Expression]:
    """Return expressions of `&`, `|` and `at_least` alone, which read no deeper than they must."""

    def extend(inner: SearchStrategy[Expression]) -> SearchStrategy[Expression]:
        return st.one_of(st.builds(operator.and_, inner, inner), st.builds(operator.or_, inner, inner), _some(inner))

    return st.recursive(leaves() if of is None else of, extend, max_leaves=max_leaves)


def expressions(of: SearchStrategy[Expression] | None = None, max_leaves: int = 5) -> SearchStrategy[Expression]:
    """Return expressions over all composers.

    Args:
        of: where the strategies come from, instead of `leaves()`.
        max_leaves: about how many strategies an expression has at most.
    """

    def extend(inner: SearchStrategy[Expression]) -> SearchStrategy[Expression]:
        pairs = (operator.and_, operator.or_, operator.sub, operator.xor)
        best = st.builds(lambda operand, m: Best.of(operand, m=m), inner, keeps())
        several = st.lists(inner, min_size=2, max_size=3)
        return st.one_of(
            *(st.builds(pair, inner, inner) for pair in pairs),
            st.builds(operator.invert, inner),
            best,
            _some(inner),
            st.builds(Then.of, best, inner),
            st.builds(_shared, inner, inner, st.integers(1, 6), st.integers(1, 6)),
            st.builds(
                lambda operand, by, share: PerGroup.of(operand, share=share, **by),
                inner,
                st.sampled_from(_GROUPS),
                st.sampled_from(["equal", "proportional", "ranked"]),
            ),
            st.builds(
                lambda operand, frames, memory: Stream.of(operand, frames=frames, memory=memory),
                inner,
                st.integers(1, 3),
                st.integers(1, 9),
            ),
            several.map(lambda operands: Borda.of(*operands)),
            several.flatmap(_weighted),
        )

    return st.recursive(leaves() if of is None else of, extend, max_leaves=max_leaves)


def _some(inner: SearchStrategy[Expression]) -> SearchStrategy[Expression]:
    return st.lists(inner, min_size=2, max_size=4).flatmap(
        lambda operands: st.integers(1, len(operands)).map(lambda j: AtLeast.of(*operands, j=j))
    )


def _shared(a: Expression, b: Expression, p: int, q: int) -> Expression:
    return Quota.of(a, b, share=Fraction(p, p + q))


def _weighted(operands: list[Expression]) -> SearchStrategy[Expression]:
    weight = st.integers(0, 6).map(lambda p: Fraction(p, 4))
    weights = st.lists(weight, min_size=len(operands), max_size=len(operands)).filter(any)
    return weights.map(lambda given: Weighted.of(*operands, weights=tuple(given)))


@st.composite
def reductions(draw: DrawFn, valid: Tensor, max_slots: int = 6) -> Reduction:
    """Return reductions of tokens `valid` `[rows, n]`: drops, merges and neither.

    Weights are eighths, so that sums and products of a few of them are exact.
    """
    rows, n = valid.shape
    slots = draw(st.integers(0, max_slots))
    slot = _numbers(draw, rows, n) % (slots + 1) - 1
    slot = torch.where(valid, slot, -1)
    weight = torch.where(slot >= 0, (_numbers(draw, rows, n) % 8 + 1).double() / 8, 0.0)
    used = torch.zeros(rows, slots + 1, dtype=torch.bool).scatter_(1, slot.where(slot >= 0, slots), True)
    return Reduction(slot, weight, used[:, :slots])


@st.composite
def merges(draw: DrawFn, universe: Universe) -> tuple[Reduction, Tensor]:
    """Return a merge of all tokens of `universe` into some of them, and the sizes it was given."""
    kept = universe.valid & (_numbers(draw, universe.rows, universe.n) % 3 == 0)
    # A row with tokens keeps at least one.
    first = torch.zeros_like(kept).scatter_(1, universe.order()[:, :1], True)
    kept |= first & universe.valid
    place = torch.arange(universe.n).expand_as(universe.ids)
    homes = [[p for p in row.tolist() if p >= 0] or [0] for row in torch.where(kept, place, -1)]
    picked = _numbers(draw, universe.rows, universe.n).tolist()
    chosen = [[home[p % len(home)] for p in row] for home, row in zip(homes, picked, strict=True)]
    partner = torch.tensor(chosen, dtype=torch.int64).reshape(universe.rows, universe.n)
    sizes = (_numbers(draw, universe.rows, universe.n) % 4 + 1).double()
    return Reduction.merge(universe, kept, partner, sizes), sizes


def shares(most: int = 5) -> SearchStrategy[tuple[list[Fraction], list[int]]]:
    """Return the weights of parties, not all zero, and their capacities."""
    weight = st.one_of(st.integers(0, 6).map(Fraction), fractions())

    def capacities(weights: list[Fraction]) -> SearchStrategy[tuple[list[Fraction], list[int]]]:
        limits = st.lists(st.integers(0, 9), min_size=len(weights), max_size=len(weights))
        return limits.map(lambda given: (weights, given))

    return st.lists(weight, min_size=1, max_size=most).filter(any).flatmap(capacities)
