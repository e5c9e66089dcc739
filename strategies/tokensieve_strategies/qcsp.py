"""QCSP: Script's query-conditioned semantic pruning."""

from __future__ import annotations

import torch
from torch import Tensor

from tokensieve import Chain, Evidence, Ranker, Tokens
from tokensieve.strategy import Order
from tokensieve_strategies._maths.conditioned import ConditionedOrder
from tokensieve_strategies._maths.relevance import missing_question_notes, relevance, require_query
from tokensieve_strategies._maths.subtracting import greedy_by_subtraction
from tokensieve_strategies._maths.vectors import require_finite


class QCSP(Ranker):
    """Keeps tokens that are relevant to the question and different from each other.

    The relevance r_i is `sign` * mean over texts m of cos(e_i, t_m), or of the inner products, brought
    to (0, 1] within the group by (s - min + 1e-6) / (max - min + 1e-6); a row without a question has
    r = 1. The order is that of greedy MAP of the determinantal point process with the kernel

        L = diag(r) S diag(r),    S_ij = cos(x_i, x_j),

    which grows log det L_I = 2 sum log r_i + log det S_I token by token.

    Paper: Script, 2025; the same as CDPruner, here `cdpp`. How ours differs from the released code:
    ours is the incremental Cholesky that the formula asks for. The code's second greedy loop, the one
    used, divides what earlier picks explain by an infinity: so it subtracts L_ij² / d_j for each pick
    j, but what picks have in common again and again; all gains are negative after 9 to 32 picks, and
    then stay as they are (`orthogonal: false`). Relevance is a cosine; the code takes raw inner
    products (`cosine: false`). Min and max are a group's own. All texts count, not the better half of
    the windows of 77 tokens. The sign of the relevance belongs to the checkpoint and comes with the
    query. Where the kernel's rank, or the gains, are exhausted, the rest follows, and a note says so.

    Attributes:
        cosine: whether relevance is a cosine, and not an inner product of vectors as long as they are.
        orthogonal: whether a pick takes from the others only what no earlier pick has taken.
    """

    name = "qcsp"
    paper = "https://arxiv.org/abs/2512.01949"
    complexity = ("O(n k (d + k)), or O(n² d + n k²)", "O(n (d + k)), or O(n²)")
    examples = ({}, {"cosine": False}, {"cosine": False, "orthogonal": False})

    cosine: bool = True
    orthogonal: bool = True

    @property
    def needs(self) -> frozenset[Evidence]:
        """The features of the tokens, and the question."""
        return frozenset({Evidence.FEATURES, Evidence.QUERY})

    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Return the tokens in the order of greedy picks."""
        if self.orthogonal:
            return ConditionedOrder(self, tokens, self._quality(tokens)).to(depth)
        universe, depth = tokens.universe, min(depth, tokens.universe.n)
        quality, notes = self._quality(tokens), missing_question_notes(tokens.query, tokens.valid, "qcsp")
        places, updates = greedy_by_subtraction(tokens.features, quality, tokens.valid, depth)
        facts = torch.stack([updates, universe.counts.clamp(max=depth)], dim=1).tolist()
        notes += tuple(
            f"qcsp: all gains are negative after {picked} picks in row {row}; {asked - picked} places filled by them"
            for row, (picked, asked) in enumerate(facts)
            if picked < asked
        )
        return Chain.from_picks(universe, places, self, notes)

    def begin(self, tokens: Tokens) -> Order | None:
        """Return the order of greedy picks before the first one."""
        return ConditionedOrder(self, tokens, self._quality(tokens)) if self.orthogonal else None

    def _quality(self, tokens: Tokens) -> Tensor:
        require_finite(tokens.features, tokens.valid, "qcsp: the features")
        require_query(tokens.query, tokens.valid, "qcsp")
        return relevance(tokens.query, tokens.valid, self.cosine)
