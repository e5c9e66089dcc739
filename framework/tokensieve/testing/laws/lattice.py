"""Laws on `&`, `|` and `~`, set by set."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from torch import Tensor

from tokensieve.composers.expression import Expression
from tokensieve.evidence import Tokens
from tokensieve.testing.checks import require
from tokensieve.testing.laws.choices import chosen, full_chain, same_choice

Join = Callable[[Expression, Expression], Expression]


Turn = Callable[[Expression], Expression]


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
    """De Morgan: ~(a & b) = ~a | ~b and ~(a | b) = ~a & ~b, set by set and in every cut."""
    for outside, inside in ((meet, join), (join, meet)):
        left, right = turn(outside(a, b)), inside(turn(a), turn(b))
        _equal(tokens, left, right)
        for k in range(tokens.universe.n + 1):
            same_choice(tokens, chosen(left, tokens, k), chosen(right, tokens, k), "De Morgan's law")


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
    """Kleene: a & ~a lies within b | ~b, set by set; for rankings, this replaces the law of the excluded middle."""
    never, always = _levels(meet(a, turn(a)), tokens), _levels(join(b, turn(b)), tokens)
    require(bool((never >= always).all()), f"a & ~a is not within b | ~b, a being {a!r} and b {b!r}")


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
    require(bool(((own == -1) | (own == full)).all()), f"{a!r} is no fixed set, so this law does not speak of it")
    require(torch.equal(_levels(meet(a, turn(a)), tokens), full), f"a & ~a is not empty, a being {a!r}")
    require(bool((_levels(join(a, turn(a)), tokens) == -1).all()), f"a | ~a is not everything, a being {a!r}")


def _levels(expression: Expression, tokens: Tokens) -> Tensor:
    """Return the levels of all tokens, one row after the other."""
    chain = full_chain(expression, tokens)
    return chain.level[chain.universe.valid]


def _equal(tokens: Tokens, left: Expression, right: Expression) -> None:
    a, b = _levels(left, tokens), _levels(right, tokens)
    require(torch.equal(a, b), f"{left!r} has the levels {a.tolist()}, but {right!r} has {b.tolist()}")
