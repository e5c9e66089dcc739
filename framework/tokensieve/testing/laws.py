"""The laws, each a function that raises `AssertionError` where it is broken.

They need neither pytest nor hypothesis: call them on examples of your own, or on those of
`tokensieve.testing.generators`. Strategies are expressions, so a law about expressions is one about
strategies.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

import torch
from torch import Tensor

from tokensieve.algebra.budget import apportion
from tokensieve.algebra.chain import Chain
from tokensieve.algebra.reduction import Reduction
from tokensieve.algebra.universe import Universe
from tokensieve.composers.expression import Expression, Intersection, Reading, Union
from tokensieve.composers.fusion import AtLeast
from tokensieve.composers.selection import select
from tokensieve.errors import ScoreError
from tokensieve.evidence import PromptText, Query, Text, Tokens, Value

__all__ = [
    "absorbing",
    "associative",
    "batch_free",
    "boolean",
    "collapse",
    "commutative",
    "de_morgan",
    "depth_free",
    "deterministic",
    "distributive",
    "dtype_free",
    "exact",
    "house_monotone",
    "idempotent",
    "infinities_rank",
    "involution",
    "kleene",
    "nan_raises",
    "nested",
    "order_free",
    "padding_free",
    "reduction_applies",
    "reduction_associative",
    "reduction_identity",
    "reduction_mass",
    "reduction_single",
    "same_choice",
    "set_by_set",
    "shallow",
    "symmetric_cut",
    "ties_by_id",
]

Join = Callable[[Expression, Expression], Expression]
Turn = Callable[[Expression], Expression]

TOLERANCE = 1e-5
"""How near two float64 scores are, relatively, for a swap of their tokens to be no violation."""


# ------------------------------------------------------------------------------------ the cut


def exact(expression: Expression, tokens: Tokens, k: int, by: Expression | None = None) -> None:
    """A cut takes exactly min(k, n) tokens of every group, whatever the expression, and no padding."""
    mask = _chosen(expression, tokens, k, by)
    _hold(
        mask.dtype == torch.bool and mask.shape == tokens.valid.shape,
        f"a cut gives bool {list(tokens.valid.shape)}, not {mask.dtype} {list(mask.shape)}",
    )
    _hold(not (mask & ~tokens.valid).any(), f"the cut to {k} took places where there is no token")
    taken, expected = mask.sum(dim=1), tokens.universe.counts.clamp(max=k)
    _hold(
        torch.equal(taken, expected),
        f"a cut to {k} took {taken.tolist()} tokens instead of {expected.tolist()} ({expression!r})",
    )


def nested(expression: Expression, tokens: Tokens) -> None:
    """A cut to k + 1 holds the cut to k, wherever every strategy and composer is nested."""
    if not expression.is_nested:
        return
    smaller = _chosen(expression, tokens, 0)
    for k in range(1, tokens.universe.n + 2):
        larger = _chosen(expression, tokens, k)
        lost = smaller & ~larger
        _hold(not lost.any(), f"{_listed(tokens, lost)} in the cut to {k - 1} but not to {k} ({expression!r})")
        smaller = larger


def set_by_set(expression: Expression, tokens: Tokens) -> None:
    """Wherever the expression's own set E_m has k members, the cut to k is E_m; what is not nested has no E_m."""
    if not expression.is_nested:
        return
    canonical, _ = tokens.canonical()
    # A complete reading gives the sets; the cuts are asked anew, and read no deeper than they must.
    chain = _chain(expression, canonical)
    for m in range(tokens.universe.n + 1):
        members = chain.members(m)
        cut = select(expression, canonical, members.sum(dim=1)).mask
        _hold(torch.equal(cut, members), f"the cut to |E_{m}| tokens is not E_{m} ({expression!r})")


def symmetric_cut(a: Expression, b: Expression, tokens: Tokens, k: int, join: Join = operator.and_) -> None:
    """Whether a or b is written first changes no cut."""
    same_choice(tokens, _chosen(join(a, b), tokens, k), _chosen(join(b, a), tokens, k), "swapping the operands")


def collapse(a: Expression, b: Expression, tokens: Tokens, k: int) -> None:
    """With |A| = |B| = k, filling A ∩ B up to k in B's own order returns exactly B.

    That is why `a[k] & b[k]` with `by: b` at `keep: k` says nothing about a.
    """
    filled = _chosen(a[k] & b[k], tokens, k, by=b)
    same_choice(tokens, filled, _chosen(b, tokens, k), "filling an intersection of k and k in the second's order")


# ------------------------------------------------------------------------------------ the lattice


def commutative(a: Expression, b: Expression, tokens: Tokens, join: Join = operator.and_) -> None:
    """Commutative: a & b = b & a, and so for |, set by set."""
    _equal(tokens, join(a, b), join(b, a))


def associative(a: Expression, b: Expression, c: Expression, tokens: Tokens, join: Join = operator.and_) -> None:
    """Associative: (a & b) & c = a & (b & c), and so for |, set by set."""
    _equal(tokens, join(join(a, b), c), join(a, join(b, c)))


def idempotent(a: Expression, tokens: Tokens, join: Join = operator.and_) -> None:
    """Idempotent: a & a = a, and so for |, set by set."""
    _equal(tokens, join(a, a), a)


def absorbing(
    a: Expression,
    b: Expression,
    tokens: Tokens,
    meet: Join = operator.and_,
    join: Join = operator.or_,
) -> None:
    """Absorbing: a & (a | b) = a = a | (a & b), set by set."""
    _equal(tokens, meet(a, join(a, b)), a)
    _equal(tokens, join(a, meet(a, b)), a)


def distributive(
    a: Expression,
    b: Expression,
    c: Expression,
    tokens: Tokens,
    meet: Join = operator.and_,
    join: Join = operator.or_,
) -> None:
    """Distributive: a & (b | c) = (a & b) | (a & c), and with both operators swapped, set by set."""
    _equal(tokens, meet(a, join(b, c)), join(meet(a, b), meet(a, c)))
    _equal(tokens, join(a, meet(b, c)), meet(join(a, b), join(a, c)))


def de_morgan(
    a: Expression,
    b: Expression,
    tokens: Tokens,
    meet: Join = operator.and_,
    join: Join = operator.or_,
    turn: Turn = operator.invert,
) -> None:
    """De Morgan: ~(a & b) = ~a | ~b and ~(a | b) = ~a & ~b, set by set and in what the cut takes."""
    for outside, inside in ((meet, join), (join, meet)):
        left, right = turn(outside(a, b)), inside(turn(a), turn(b))
        _equal(tokens, left, right)
        for k in range(tokens.universe.n + 1):
            same_choice(tokens, _chosen(left, tokens, k), _chosen(right, tokens, k), "De Morgan's law")


def involution(a: Expression, tokens: Tokens, turn: Turn = operator.invert) -> None:
    """Involution: ~~a = a, set by set."""
    _equal(tokens, turn(turn(a)), a)


def kleene(
    a: Expression,
    b: Expression,
    tokens: Tokens,
    meet: Join = operator.and_,
    join: Join = operator.or_,
    turn: Turn = operator.invert,
) -> None:
    """Kleene: a & ~a lies within b | ~b, set by set; that much rankings keep of the excluded middle."""
    never, always = _levels(meet(a, turn(a)), tokens), _levels(join(b, turn(b)), tokens)
    _hold(bool((never >= always).all()), f"a & ~a is not within b | ~b, a being {a!r} and b {b!r}")


def boolean(
    a: Expression,
    tokens: Tokens,
    meet: Join = operator.and_,
    join: Join = operator.or_,
    turn: Turn = operator.invert,
) -> None:
    """For a fixed set, a & ~a is empty and a | ~a is everything."""
    counts = tokens.universe.counts
    full = counts.repeat_interleave(counts)
    own = _levels(a, tokens)
    _hold(bool(((own == -1) | (own == full)).all()), f"{a!r} is no fixed set, so this law does not speak of it")
    _hold(torch.equal(_levels(meet(a, turn(a)), tokens), full), f"a & ~a is not empty, a being {a!r}")
    _hold(bool((_levels(join(a, turn(a)), tokens) == -1).all()), f"a | ~a is not everything, a being {a!r}")


# ----------------------------------------------------------------------------- what does not matter


def order_free(
    expression: Expression, tokens: Tokens, k: int, permutation: Tensor, scores: Tensor | None = None
) -> None:
    """The order of the tokens in memory changes nothing; ids and evidence travel along.

    Args:
        expression: the expression or strategy.
        tokens: the groups.
        k: the budget.
        permutation: int64 `[rows, n]`, a permutation of the places of every row.
        scores: `[rows, n]`; a swap of tokens whose scores are nearly equal is then no violation.
    """
    moved = _chosen(expression, tokens.take(permutation, torch.ones_like(tokens.valid)), k)
    back = torch.zeros_like(moved).scatter_(1, permutation, moved)
    same_choice(tokens, _chosen(expression, tokens, k), back, "permuting memory", scores)


def padding_free(
    expression: Expression,
    tokens: Tokens,
    k: int,
    extra: int = 3,
    filler: int = 7,
    scores: Tensor | None = None,
) -> None:
    """Places without a token change nothing, whatever stands there.

    Args:
        expression: the expression or strategy.
        tokens: the groups.
        k: the budget.
        extra: how many places are added to every row.
        filler: what stands there as evidence.
        scores: `[rows, n]`; a swap of tokens whose scores are nearly equal is then no violation.
    """
    n = tokens.universe.n
    wide = _chosen(expression, _padded(tokens, extra, filler), k)
    _hold(not wide[:, n:].any(), f"the cut to {k} took padding ({expression!r})")
    same_choice(tokens, _chosen(expression, tokens, k), wide[:, :n], "padding", scores)


def batch_free(expression: Expression, tokens: Tokens, k: int, scores: Tensor | None = None) -> None:
    """A row alone, without its padding, is judged as in the batch."""
    together = _chosen(expression, tokens, k)
    for row in range(tokens.universe.rows):
        places = tokens.valid[row].nonzero().T
        alone = tokens.take(places, torch.ones_like(places, dtype=torch.bool), torch.tensor([row]))
        same_choice(
            alone,
            together[row, places[0]].unsqueeze(0),
            _chosen(expression, alone, k),
            f"taking row {row} out of the batch",
            None if scores is None else scores[row, places[0]].unsqueeze(0),
        )


def depth_free(expression: Expression, tokens: Tokens, k: int) -> None:
    """How deep the strategies are read changes nothing, once the cut is settled."""
    canonical, _ = tokens.canonical()
    n = tokens.universe.n
    needed = _chosen(expression, canonical, k)
    for depth in range(k + 1, n + 1):
        read = Reading(canonical).settled(expression, k, depth).cut(k)
        same_choice(canonical, needed, read, f"reading to depth {depth}")


def deterministic(expression: Expression, tokens: Tokens, k: int) -> None:
    """Asking twice gives the same answer."""
    same_choice(tokens, _chosen(expression, tokens, k), _chosen(expression, tokens, k), "asking again")


def dtype_free(universe: Universe, scores: Tensor, dtype: torch.dtype) -> None:
    """Casting scores changes their order only where it makes them equal."""
    cast = scores.to(dtype)
    before = Chain.from_scores(universe, scores, "scores").level
    after = Chain.from_scores(universe, cast, "cast").level
    pair = universe.valid.unsqueeze(1) & universe.valid.unsqueeze(2)
    swapped = (before.unsqueeze(1) < before.unsqueeze(2)) & (after.unsqueeze(1) > after.unsqueeze(2))
    apart = cast.unsqueeze(1) != cast.unsqueeze(2)
    _hold(not (pair & swapped & apart).any(), f"casting to {dtype} swapped tokens of different scores")


def shallow(expression: Expression, tokens: Tokens, k: int) -> None:
    """A strategy is asked for no more depth than the cut needs, up to doubling.

    The cut needs d places, where E_d is the first set that holds k tokens of every group. Depths
    double from k, so no strategy is asked for more than max(k, 2d - 1). The law speaks of
    expressions of `&`, `|` and `at_least`; it holds for those alone.
    """
    if not all(isinstance(part, (Intersection, Union, AtLeast)) for part in expression.walk() if part.parts):
        return
    n = tokens.universe.n
    sizes = tokens.universe.counts.clamp(max=k)
    chain = _chain(expression, tokens)
    needed = next((d for d in range(n + 1) if (chain.members(d).sum(dim=1) >= sizes).all()), n)
    asked = [0]

    def counting(strategy: Expression, reading: Reading, depth: int) -> Chain:
        asked.append(depth)
        return strategy.read(reading, depth)

    select(expression, tokens, sizes, source=counting)
    bound = min(n, max(1, k, 2 * needed - 1))
    _hold(
        max(asked) <= bound,
        f"a cut to {k} is settled at depth {needed}, but depths {asked[1:]} were read ({expression!r})",
    )


def same_choice(tokens: Tokens, before: Tensor, after: Tensor, what: str, scores: Tensor | None = None) -> None:
    """Two masks choose the same tokens; those of nearly equal scores may have changed places.

    Args:
        tokens: the groups.
        before: bool `[rows, n]`.
        after: bool `[rows, n]`.
        what: what came between them.
        scores: `[rows, n]`; a swap of tokens whose scores are nearly equal is then no violation.
    """
    for row, changed in enumerate(before ^ after):
        if scores is not None and before[row].sum() == after[row].sum():
            swapped = scores[row].double()[changed]
            if swapped.numel() and swapped.max() - swapped.min() <= TOLERANCE * swapped.abs().max():
                continue
        lost, won = (sorted(tokens.ids[row][changed & side[row]].tolist()) for side in (before, after))
        _hold(not changed.any(), f"{what} lost tokens {lost} and won {won} in row {row}")


# ------------------------------------------------------------------------------------ scores


def ties_by_id(universe: Universe, scores: Tensor) -> None:
    """Scores rank by value, equal ones by token id; memory order and padding have no say."""
    level = Chain.from_scores(universe, scores, "scores").level
    better = scores.unsqueeze(1) > scores.unsqueeze(2)
    first = (scores.unsqueeze(1) == scores.unsqueeze(2)) & (universe.ids.unsqueeze(1) < universe.ids.unsqueeze(2))
    place = ((better | first) & universe.valid.unsqueeze(1)).sum(dim=2)
    _hold(torch.equal(level[universe.valid], place[universe.valid]), "scores do not rank by value, then id")


def nan_raises(universe: Universe, scores: Tensor) -> None:
    """NaN as the score of a token raises; at an invalid place it says nothing."""
    bad = torch.where(universe.valid, scores, torch.nan)
    Chain.from_scores(universe, bad, "scores")
    for row, place in universe.valid.nonzero().tolist():
        spoilt = bad.clone()
        spoilt[row, place] = torch.nan
        try:
            Chain.from_scores(universe, spoilt, "scores")
        except ScoreError:
            continue
        raise AssertionError(f"NaN as the score of the token at place {place} of row {row} did not raise")


def infinities_rank(universe: Universe, scores: Tensor) -> None:
    """Infinite scores are scores: +inf comes first and -inf last, ties by id."""
    for where in (scores > 0, scores < 0, torch.ones_like(scores, dtype=torch.bool)):
        for value in (torch.inf, -torch.inf):
            ties_by_id(universe, torch.where(where, value, scores))


# ------------------------------------------------------------------------------------ apportionment


def house_monotone(
    weights: Sequence[Fraction],
    capacity: Sequence[int],
    dealing: Callable[[Sequence[Fraction], Sequence[int]], Iterator[int]] = apportion,
) -> None:
    """Places are dealt one after the other by Sainte-Laguë, so a place more takes none from anyone.

    At every size each place was given to the largest weight / (2 seats + 1) of those who had room,
    the lowest index on ties, and everyone is filled in the end.
    """
    seats = [0] * len(weights)
    for turn, party in enumerate(dealing(weights, capacity)):
        claims = [w / (2 * s + 1) for w, s in zip(weights, seats, strict=True)]
        room = [p for p in range(len(weights)) if seats[p] < capacity[p]]
        rightful = max(room, key=lambda p: (claims[p], -p), default=None)
        _hold(party == rightful, f"place {turn} went to party {party}, not to {rightful} ({weights}, {seats})")
        seats[party] += 1
    _hold(seats == list(capacity), f"places were dealt up to {seats}, but there is room for {list(capacity)}")


# ------------------------------------------------------------------------------------ reductions


def reduction_identity(reduction: Reduction) -> None:
    """The identity before or after a reduction changes nothing."""
    tokens = torch.ones_like(reduction.slot, dtype=torch.bool)
    _alike(_identity(tokens).then(reduction), reduction, "the identity before a reduction")
    _alike(reduction.then(_identity(reduction.valid)), reduction, "the identity after a reduction")


def reduction_associative(first: Reduction, second: Reduction, third: Reduction) -> None:
    """Three reductions are the same reduction, whichever two are joined first."""
    left = first.then(second).then(third)
    _alike(left, first.then(second.then(third)), "joining the last two first")


def reduction_applies(first: Reduction, second: Reduction, x: Tensor) -> None:
    """Applying two joined reductions is applying one after the other, up to rounding."""
    joined, after = first.then(second).apply(x), second.apply(first.apply(x))
    tolerance = 8 * max(torch.finfo(x.dtype).eps, 1e-12)
    used = second.valid.unsqueeze(-1)
    _hold(
        torch.allclose(joined * used, after * used, rtol=tolerance, atol=tolerance * float(x.abs().sum() + 1)),
        "applying joined reductions is not applying one after the other",
    )


def reduction_mass(reduction: Reduction, sizes: Tensor) -> None:
    """Every original token is counted in one slot, or was dropped; none is counted twice or made up."""
    mass = reduction.mass(sizes)
    kept = torch.where(reduction.slot >= 0, sizes, 0).sum(dim=1)
    _hold(
        torch.allclose(mass.sum(dim=1).double(), kept.double()),
        f"the slots stand for {mass.sum(dim=1).tolist()} original tokens instead of {kept.tolist()}",
    )
    _hold(not mass[~reduction.valid].any(), "a slot that is not in use stands for tokens")


def reduction_single(reduction: Reduction, x: Tensor) -> None:
    """A slot that is one token alone, with weight one, is that token to the bit."""
    out = reduction.apply(x)
    _hold(out.dtype == x.dtype, f"slots of {x.dtype} came out as {out.dtype}")
    for row, slots in enumerate(reduction.slot.tolist()):
        for place, slot in enumerate(slots):
            if slot >= 0 and slots.count(slot) == 1 and reduction.weight[row, place] == 1:
                same = torch.equal(out[row, slot].view(torch.uint8), x[row, place].view(torch.uint8))
                _hold(same, f"slot {slot} of row {row} is token {place} alone, but not to the bit")


# ------------------------------------------------------------------------------------ how they are held


def _hold(condition: object, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _chosen(expression: Expression, tokens: Tokens, k: int, by: Expression | None = None) -> Tensor:
    return select(expression, tokens, torch.full_like(tokens.universe.counts, k), by).mask


def _chain(expression: Expression, tokens: Tokens) -> Chain:
    """Read everything, over the tokens in id order."""
    canonical, _ = tokens.canonical()
    return Reading(canonical).of(expression, canonical.universe.n)


def _levels(expression: Expression, tokens: Tokens) -> Tensor:
    """Return the levels of all tokens, row after row."""
    chain = _chain(expression, tokens)
    return chain.level[chain.universe.valid]


def _equal(tokens: Tokens, left: Expression, right: Expression) -> None:
    a, b = _levels(left, tokens), _levels(right, tokens)
    _hold(torch.equal(a, b), f"{left!r} has the levels {a.tolist()}, but {right!r} has {b.tolist()}")


def _listed(tokens: Tokens, mask: Tensor) -> str:
    return "; ".join(f"row {r}: tokens {tokens.ids[r][m].tolist()}" for r, m in enumerate(mask) if m.any())


def _padded(tokens: Tokens, extra: int, filler: int) -> Tokens:
    def wider(x: Tensor, value: int) -> Tensor:
        return torch.cat([x, x.new_full((x.shape[0], extra, *x.shape[2:]), value)], dim=1)

    def padded(value: Value) -> Value:
        if isinstance(value, Query):
            return replace(value, patch=wider(value.patch, filler))
        if isinstance(value, PromptText):
            return replace(value, patch=wider(value.patch, filler), attention=wider(value.attention, filler))
        return value if isinstance(value, Text) else wider(value, filler)

    universe = Universe(wider(tokens.valid, 0), wider(tokens.ids, filler))
    return replace(tokens, universe=universe, evidence={k: padded(v) for k, v in tokens.evidence.items()})


def _identity(valid: Tensor) -> Reduction:
    return Reduction.identity(Universe(valid, torch.zeros_like(valid, dtype=torch.int64)))


def _alike(left: Reduction, right: Reduction, what: str) -> None:
    _hold(torch.equal(left.slot, right.slot), f"{what} sends tokens to other slots")
    _hold(torch.equal(left.valid, right.valid), f"{what} uses other slots")
    _hold(torch.allclose(left.weight, right.weight, rtol=1e-12), f"{what} gives other weights")
