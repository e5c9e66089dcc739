"""Laws on the cut of an expression to a budget."""

from __future__ import annotations

import operator

import torch
from torch import Tensor

from tokensieve.algebra.chain import Chain
from tokensieve.composers.expression import Expression, Intersection, Reading, Union
from tokensieve.composers.fusion import AtLeast
from tokensieve.composers.selection import select
from tokensieve.evidence import Tokens
from tokensieve.testing.checks import require
from tokensieve.testing.laws.choices import chosen, full_chain, same_choice
from tokensieve.testing.laws.lattice import Join


def exact(expression: Expression, tokens: Tokens, k: int, by: Expression | None = None) -> None:
    """A cut takes exactly min(k, n) tokens of every group and no padding, for every expression."""
    mask = chosen(expression, tokens, k, by)
    require(
        mask.dtype == torch.bool and mask.shape == tokens.valid.shape,
        f"a cut gives bool {list(tokens.valid.shape)}, not {mask.dtype} {list(mask.shape)}",
    )
    require(not (mask & ~tokens.valid).any(), f"the cut to {k} took places where there is no token")
    taken, expected = mask.sum(dim=1), tokens.universe.counts.clamp(max=k)
    require(
        torch.equal(taken, expected),
        f"a cut to {k} took {taken.tolist()} tokens instead of {expected.tolist()} ({expression!r})",
    )


def nested(expression: Expression, tokens: Tokens) -> None:
    """A cut to k + 1 contains the cut to k, if every strategy and composer is nested."""
    if not expression.is_nested:
        return
    smaller = chosen(expression, tokens, 0)
    for k in range(1, tokens.universe.n + 2):
        larger = chosen(expression, tokens, k)
        lost = smaller & ~larger
        require(not lost.any(), f"{_listed(tokens, lost)} in the cut to {k - 1} but not to {k} ({expression!r})")
        smaller = larger


def set_by_set(expression: Expression, tokens: Tokens) -> None:
    """If the set E_m of the expression has k members, the cut to k is E_m; what is not nested has no E_m."""
    if not expression.is_nested:
        return
    canonical, _ = tokens.canonical()
    # A complete reading gives the sets; each cut is computed anew, and reads no deeper than it must.
    chain = full_chain(expression, canonical)
    for m in range(tokens.universe.n + 1):
        members = chain.members(m)
        cut = select(expression, canonical, members.sum(dim=1)).mask
        require(torch.equal(cut, members), f"the cut to |E_{m}| tokens is not E_{m} ({expression!r})")


def symmetric_cut(a: Expression, b: Expression, tokens: Tokens, k: int, join: Join = operator.and_) -> None:
    """The order of the operands a and b changes no cut."""
    same_choice(tokens, chosen(join(a, b), tokens, k), chosen(join(b, a), tokens, k), "swapping the operands")


def collapse(a: Expression, b: Expression, tokens: Tokens, k: int) -> None:
    """With |A| = |B| = k, filling A ∩ B up to k in B's own order returns exactly B.

    That is why `a[k] & b[k]` with `by: b` at `keep: k` says nothing about a.
    """
    filled = chosen(a[k] & b[k], tokens, k, by=b)
    same_choice(tokens, filled, chosen(b, tokens, k), "filling an intersection of k and k in the second's order")


def shallow(expression: Expression, tokens: Tokens, k: int) -> None:
    """A strategy is read no deeper than the cut needs, up to doubling.

    The cut needs d places, where E_d is the first set that holds k tokens of every group. Depths
    double from k, so no strategy is read deeper than max(k, 2d - 1). The law applies to expressions of `&`, `|` and
    `at_least` only.
    """
    if not all(isinstance(part, (Intersection, Union, AtLeast)) for part in expression.walk() if part.parts):
        return
    n = tokens.universe.n
    sizes = tokens.universe.counts.clamp(max=k)
    chain = full_chain(expression, tokens)
    needed = next((d for d in range(n + 1) if (chain.members(d).sum(dim=1) >= sizes).all()), n)
    asked = [0]

    def counting(strategy: Expression, reading: Reading, depth: int) -> Chain:
        asked.append(depth)
        return strategy.read(reading, depth)

    select(expression, tokens, sizes, source=counting)
    bound = min(n, max(1, k, 2 * needed - 1))
    require(
        max(asked) <= bound,
        f"a cut to {k} is settled at depth {needed}, but depths {asked[1:]} were read ({expression!r})",
    )


def _listed(tokens: Tokens, mask: Tensor) -> str:
    return "; ".join(f"row {r}: tokens {tokens.ids[r][m].tolist()}" for r, m in enumerate(mask) if m.any())
