"""What strategies and composers answer: a chain over the tokens that they were given, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tokensieve.algebra.chain import Chain
from tokensieve.algebra.doubts import refuse_if
from tokensieve.algebra.universe import Universe
from tokensieve.algebra.writes import unwritten
from tokensieve.errors import AlgebraError, TokensieveError


def check_chain(chain: object, universe: Universe, who: str, method: str, error: type[TokensieveError]) -> Chain:
    """Return what `who` answered to `method`, if it is a chain over the tokens that were given; else raise `error`."""
    if not isinstance(chain, Chain):
        raise error(f"{who} returned {type(chain).__name__}; {method} returns a Chain")
    if chain.level.device != universe.device:
        raise error(f"{who} returned a chain on {chain.level.device}; its tokens are on {universe.device}")
    others = f"{who} returned a chain of other tokens than those that it was given"
    if not chain.universe.same_tokens(universe):
        raise error(others)
    if chain.universe is universe:
        return chain
    # Whoever was lent a copy may have written into it.
    refuse_if(chain.universe.differs(universe), lambda: error(others))
    return replace(chain, universe=universe)


def combined(
    combine: Callable[[Sequence[Chain]], Chain], chains: Sequence[Chain], universe: Universe, who: str
) -> Chain:
    """Return what a composer's `combine` makes of its operands' chains.

    Raises:
        AlgebraError: naming the composer `who`, if it is no chain over these tokens, or the operands were written into.
    """
    lent = [
        ("a chain of an operand", x) for chain in chains for x in (chain.level, *(leaf.place for leaf in chain.leaves))
    ]
    with unwritten(lent, who, AlgebraError, "make a new tensor instead"):
        chain = combine(chains)
    return check_chain(chain, universe, who, "combine", AlgebraError)
