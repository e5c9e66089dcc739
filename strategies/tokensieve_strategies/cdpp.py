"""CDPP: the conditional determinantal point process of CDPruner."""

from __future__ import annotations

from pydantic import Field

from tokensieve import Chain, Evidence, Ranker, Tokens
from tokensieve.strategy import Order
from tokensieve_strategies._maths.conditioned import ConditionedOrder
from tokensieve_strategies._maths.relevance import relevance, require_query
from tokensieve_strategies._maths.vectors import require_finite


class CDPP(Ranker):
    """Keeps tokens that differ from each other, conditioned on the question.

    The relevance r_i is `sign` * mean over texts m of cos(e_i, t_m), brought to (0, 1] within the
    group by (s - min + 1e-6) / (max - min + 1e-6); a row without a question has r = 1. The order is
    that of greedy MAP of the determinantal point process with the kernel

        L = diag(q) S diag(q),    S_ij = cos(x_i, x_j),    q = r, or with theta: q = exp(alpha r),

    alpha = theta / (2 (1 - theta)), so that with theta log det L_I grows by log det S_I and
    theta / (1 - theta) times the sum of r: at 0 the question does not count, at 1/2 both count alike.

    Paper: Zhang et al., CDPruner, NeurIPS 2025; without theta, the same as `qcsp`. How ours differs
    from the released code: min and max are a group's own, not of the whole batch; the floor of r is
    in the denominator too, so that equal similarities divide nothing by zero; the sign belongs to
    the checkpoint and comes with the query, where the code always negates; and where the kernel's
    rank is exhausted the rest follows by relevance, with a note, where the code takes the root of a
    negative number and picks tokens again.

    Attributes:
        theta: how much relevance counts beside diversity; without it, r itself is the quality.
    """

    name = "cdpp"
    paper = "https://arxiv.org/abs/2506.10967"
    complexity = ("O(n² d + n k²)", "O(n²)")
    examples = ({}, {"theta": 0.5}, {"theta": 0.0})

    # Up to here, every exp(alpha r) squared is a normal number beside the largest one.
    theta: float | None = Field(default=None, ge=0, le=0.99)

    @property
    def needs(self) -> frozenset[Evidence]:
        """The features of the tokens, and the question."""
        return frozenset({Evidence.FEATURES, Evidence.QUERY})

    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Return the tokens in the order of greedy picks."""
        return self.begin(tokens).to(depth)

    def begin(self, tokens: Tokens) -> Order:
        """Return the order of greedy picks before the first one."""
        require_finite(tokens.features, tokens.valid, "cdpp: the features")
        require_query(tokens.query, tokens.valid, "cdpp")
        quality = relevance(tokens.query, tokens.valid)
        if self.theta is not None:
            # A common factor changes no pick; this one makes the largest value 1.
            quality = (self.theta / (2 * (1 - self.theta)) * (quality.double() - 1)).exp()
        return ConditionedOrder(self, tokens, quality)
