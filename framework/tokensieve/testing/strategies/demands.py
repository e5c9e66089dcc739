"""Laws on demands: what a group needs is a number, which depends on that group alone."""

from __future__ import annotations

import torch
from torch import Tensor

from tokensieve.evidence import Tokens
from tokensieve.strategy import Appraiser
from tokensieve.testing.checks import cured_by, note_input, require
from tokensieve.testing.samples import changed, hard, pool, row, scrambled
from tokensieve.testing.strategies.trials import require_unchanged

CLOSE = 1e-6
"""The largest relative difference of two demands that are equal up to rounding."""


def _demand(strategy: Appraiser, tokens: Tokens) -> Tensor:
    """Return the demands of tokens as a stage asks for them: in canonical form, with the declared evidence."""
    canonical, _ = tokens.canonical()
    before = changed(canonical, Tensor.clone)
    found = strategy.demand(canonical.only(strategy.needs))
    require_unchanged(canonical, before)
    return found


@cured_by("return `[rows]`: a mean or sum over the tokens of each row, which is 0 and no NaN for a row without tokens")
def demands_are_numbers(strategy: Appraiser) -> None:
    """A demand is one finite number for each row, and not negative."""
    for what, tokens in (*pool(), *hard()):
        with note_input(what):
            found = _demand(strategy, tokens)
            require(found.shape == (tokens.universe.rows,), f"the demands are {list(found.shape)}")
            require(bool((found.isfinite() & (found >= 0)).all()), f"the demands are {found.tolist()}")


@cured_by("leave out `~tokens.valid`, and reduce over the tokens of a row (`dim=1`), never over rows", raised=True)
def demands_are_free(strategy: Appraiser) -> None:
    """A row alone, in another order in memory, or beside empty places of any value has the same demand."""
    for seed, (what, tokens) in enumerate(pool()):
        with note_input(what):
            found = _demand(strategy, tokens)
            moved = _demand(strategy, scrambled(tokens, 1 + seed % 3, seed)[0])
            alone = torch.cat([_demand(strategy, row(tokens, number)) for number in range(tokens.universe.rows)])
            for other, how in ((moved, "scrambled in memory"), (alone, "each row alone")):
                near = torch.allclose(found.double(), other.double(), rtol=CLOSE, atol=CLOSE)
                require(near, f"the demands are {found.tolist()}, and {how} {other.tolist()}")
