"""Laws on merging."""

from __future__ import annotations

import torch

from tokensieve.strategy import Merger
from tokensieve.testing.checks import cured_by, note_input, require
from tokensieve.testing.samples import (
    pool,
)
from tokensieve.testing.strategies.trials import (
    all_budgets,
    budget,
    chosen,
    merged,
)


@cured_by(
    "begin `assign` (and `fold`) with the cut itself, `kept = self.rank(tokens, tokens.universe.n).cut(keep)`, "
    "and return `Reduction.merge(tokens.universe, kept, partner, tokens.sizes)`",
    raised=True,
)
def slots_are_the_cut(strategy: Merger) -> None:
    """The slots of `assign` are the tokens that the cut keeps, in id order; padding has no slot."""
    for what, tokens in pool():
        with note_input(what):
            for k in all_budgets(tokens):
                reduction, kept = merged(strategy, tokens, k), chosen(strategy, tokens, k)
                slots = reduction.valid.sum(dim=1)
                require(torch.equal(slots, kept.sum(dim=1)), f"{slots.tolist()} slots for {kept.sum(dim=1).tolist()}")
                turn = kept.cumsum(dim=1) - 1
                require(torch.equal(reduction.slot[kept], turn[kept]), "a kept token is not in the slot of its place")
                require(bool((reduction.slot[~tokens.valid] == -1).all()), "padding is in a slot")
                most = torch.minimum(budget(tokens, k), tokens.universe.counts)
                folded = strategy.fold(tokens.only(strategy.needs), most)
                if folded is not None:
                    require(torch.equal(folded[0], kept), "`fold` keeps other tokens than the cut")
                    ours, theirs = (torch.stack([one.slot.double(), one.weight]) for one in (folded[1], reduction))
                    require(torch.equal(ours, theirs), "`fold` joins other tokens than `assign`")


@cured_by(
    "divide every weight by the sum of its slot, as `Reduction.merge(universe, kept, partner, tokens.sizes)` does"
)
def weights_sum_to_one(strategy: Merger) -> None:
    """A slot is a weighted mean of its tokens: weights are not negative, and sum to one."""
    for what, tokens in pool():
        with note_input(what):
            for k in all_budgets(tokens):
                reduction = merged(strategy, tokens, k)
                total = reduction.mass(reduction.weight.double())[reduction.valid]
                require(bool((reduction.weight >= 0).all()), "a weight is negative")
                near = torch.allclose(total, torch.ones_like(total), rtol=0, atol=1e-6)
                require(near, f"the weights in the slots sum to {total.tolist()}")


@cured_by(
    "give every token of `tokens.valid` a slot: name a partner for each that is not kept, in "
    "`Reduction.merge(universe, kept, partner, tokens.sizes)`"
)
def mass_conserved(strategy: Merger) -> None:
    """The slots together represent all original tokens."""
    for what, tokens in pool():
        with note_input(what):
            for k in all_budgets(tokens)[1:]:
                mass = merged(strategy, tokens, k).mass(tokens.sizes.double()).sum(dim=1)
                there = torch.where(tokens.valid, tokens.sizes, 0).double().sum(dim=1)
                require(torch.equal(mass, there), f"the slots stand for {mass.tolist()} tokens of {there.tolist()}")
