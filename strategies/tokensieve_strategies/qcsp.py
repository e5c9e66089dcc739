"""QCSP: Script's query-conditioned semantic pruning."""

from __future__ import annotations

from tokensieve import Chain, Evidence, Ranker, Tokens
from tokensieve_strategies._maths.dpp import greedy_map
from tokensieve_strategies._maths.relevance import missing_question_notes, relevance, require_query
from tokensieve_strategies._maths.vectors import require_finite


class QCSP(Ranker):
    """Keeps tokens that are relevant to the question and different from each other.

    The relevance r_i is `sign` * mean over texts m of cos(e_i, t_m), brought to (0, 1] within the
    group by (s - min + 1e-6) / (max - min + 1e-6); a row without a question has r = 1. The order is
    that of greedy MAP of the determinantal point process with the kernel

        L = diag(r) S diag(r),    S_ij = cos(x_i, x_j),

    which grows log det L_I = 2 sum log r_i + log det S_I token by token.

    Paper: Script, 2025; the same as CDPruner, here `cdpp`. How ours differs from the released code:
    its second greedy loop, the one used, divides by an infinity and so never looks at what was
    picked; ours is the incremental Cholesky that the formula asks for. Min and max are a group's
    own. All texts count, not the better half of the windows of 77 tokens. The sign of the relevance
    belongs to the checkpoint and comes with the query. Where the kernel's rank is exhausted, the
    rest follows by relevance, and a note says so.
    """

    name = "qcsp"
    paper = "https://arxiv.org/abs/2512.01949"

    @property
    def needs(self) -> frozenset[Evidence]:
        """The features of the tokens, and the question."""
        return frozenset({Evidence.FEATURES, Evidence.QUERY})

    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Return the tokens in the order of greedy picks."""
        universe, query = tokens.universe, tokens.query
        require_finite(tokens.features, tokens.valid, "qcsp: the features")
        require_query(query, tokens.valid, "qcsp")
        quality = relevance(query, tokens.valid)
        picks = greedy_map(tokens.features, quality, tokens.valid, min(depth, universe.n))
        notes = missing_question_notes(query, tokens.valid, "qcsp") + picks.notes(universe.counts, "qcsp")
        return Chain.from_picks(universe, picks.places, self, notes)
