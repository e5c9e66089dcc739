"""Laws on how many tokens a strategy chooses."""

from __future__ import annotations

import torch
from torch import Tensor

from tokensieve.algebra.budget import Keep
from tokensieve.composers.selection import select
from tokensieve.evidence import Evidence, Tokens
from tokensieve.strategy import Merger, Scorer, Strategy
from tokensieve.testing import laws
from tokensieve.testing.checks import cured_by, note_input, require
from tokensieve.testing.samples import (
    hard,
    pool,
    sample,
)
from tokensieve.testing.strategies.trials import (
    all_budgets,
    merged,
    partial_budgets,
)


@cured_by(
    "return a score, a pick or a yes for every token of `tokens.valid`, and let the chain cut: "
    "`Chain.from_scores`, `from_picks` and `from_set` take exactly k",
    raised=True,
)
def exact_count(strategy: Strategy) -> None:
    """A budget of k gives exactly min(k, n) tokens of every group and no padding."""
    for what, tokens in pool():
        with note_input(what):
            for k in all_budgets(tokens):
                laws.exact(strategy, tokens, k)


@cured_by(
    "ask for no more places than there are: `min(k, tokens.universe.n)` before `topk` or `kthvalue`, `keepdim` "
    "and `clamp(min=1)` where nothing is there to reduce over or to divide by",
    raised=True,
)
def tiny(strategy: Strategy) -> None:
    """Exact counts for groups of zero, one and two tokens, and budgets from zero to more than there are."""
    for counts in ([], [0], [1], [0, 1], [2, 0, 1], [1, 1]):
        with note_input(f"sample({counts})"):
            for k in range(4):
                laws.exact(strategy, sample(counts), k)


@cured_by(
    "compute in float32 or float64, scale before powers, `clamp` before you divide by a norm, and subtract no "
    "infinities",
    raised=True,
)
def hard_inputs(strategy: Strategy) -> None:
    """Exact counts where published code fails: copies, zeros, low rank, bfloat16, huge vectors, no text."""
    for what, tokens in hard():
        with note_input(what):
            n = tokens.universe.n
            for k in sorted({0, 1, n // 2, n, n + 1}):
                laws.exact(strategy, tokens, k)
                if isinstance(strategy, Merger):
                    weight = merged(strategy, tokens, k).weight
                    require(weight.isfinite().all(), "a weight is not finite")


@cured_by("leave out what is picked already: set its score to -inf before the next pick", raised=True)
def no_repeats(strategy: Strategy) -> None:
    """Each token is chosen at most once, also if tokens are copies of each other."""
    for seed in range(3):
        with note_input(f"sample([8, 5], 'duplicates', {seed})"):
            tokens = sample([8, 5], "duplicates", seed)
            for k in range(10):
                laws.exact(strategy, tokens, k)


@cured_by(
    "let nothing but the number of picks depend on `depth`; if the tokens for k + 1 need not hold those for k by "
    "design, set `nested = False`"
)
def nested_in_keep(strategy: Strategy) -> None:
    """A budget of k + 1 gives the tokens of k and one more, unless `nested` is false."""
    for what, tokens in pool():
        with note_input(what):
            laws.nested(strategy, tokens)


@cured_by(
    "return no place that is not final: `Chain.from_picks` takes the first `depth` picks alone, or return the "
    "whole order"
)
def depth_free(strategy: Strategy) -> None:
    """Reading a nested ranking deeper changes nothing, alone and as an operand of an intersection."""
    for what, tokens in pool() if strategy.is_nested else ():
        with note_input(what):
            for k in partial_budgets(tokens)[:2]:
                laws.depth_free(strategy, tokens, k)
                # An intersection reads more places than it takes.
                laws.depth_free(strategy & _Last(), tokens, k)


@cured_by("let `choose` return one set whatever the budget, and override neither `judge` nor `read`")
def own_size(strategy: Strategy) -> None:
    """`keep: auto` gives the chosen set, and so does its size as a budget."""
    for what, tokens in pool():
        with note_input(what):
            chosen = select(strategy, tokens, Keep.of("auto")).mask
            again = select(strategy, tokens, chosen.sum(dim=1)).mask
            require(not (chosen & ~tokens.valid).any(), "the chosen set holds places where there is no token")
            require(torch.equal(chosen, again), "a budget of the set's own size gives another set")


class _Last(Scorer):
    """Ranks the last tokens first."""

    name = "kit_last"

    @property
    def needs(self) -> frozenset[Evidence]:
        """No evidence."""
        return frozenset()

    def score(self, tokens: Tokens) -> Tensor:
        """Return the id."""
        return tokens.ids
