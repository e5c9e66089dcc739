"""TRIM: relevance to the question alone."""

from __future__ import annotations

from torch import Tensor

from tokensieve import Chain, Evidence, Scorer, Tokens
from tokensieve_strategies._maths.relevance import missing_question_notes, query_similarity, require_query


class TRIM(Scorer):
    """Keeps the tokens that are most relevant to the question.

    score_i = `sign` * mean over texts m of cos(e_i, t_m), with the tokens e and the texts t in one
    space, such as CLIP's. In a row without a question all scores are 0, and a note says so.

    Paper: Song et al., Less is More (TRIM), COLING 2025. How ours differs from the released code:
    the cosine instead of the inner product; no softmax, which changes no order; the sign belongs to
    the checkpoint and comes with the query, where the code always negates; the budget is
    set by the recipe, not by quartiles over the whole batch; and the mean of the tokens
    that go is not appended, which would be one token more than the budget.
    """

    name = "trim"
    paper = "https://arxiv.org/abs/2409.10994"
    complexity = ("O(n d)", "O(n d)")

    @property
    def needs(self) -> frozenset[Evidence]:
        """The question and the tokens in one space."""
        return frozenset({Evidence.QUERY})

    def score(self, tokens: Tokens) -> Tensor:
        """Return the similarity of each token to the question."""
        require_query(tokens.query, tokens.valid, "trim")
        # In float32, values that differ by rounding alone are ties.
        return query_similarity(tokens.query, tokens.valid).float()

    def judge(self, tokens: Tokens, depth: int) -> Chain:
        """Return the order of scores, with a note for each row without a question."""
        notes = missing_question_notes(tokens.query, tokens.valid, "trim")
        return Chain.from_scores(tokens.universe, self.score(tokens), self, notes)
