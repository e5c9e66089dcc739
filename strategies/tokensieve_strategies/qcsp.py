"""QCSP: Script's query-conditioned semantic pruning."""

from __future__ import annotations

import torch
from torch import Tensor

from tokensieve import Chain, Evidence, Query, Ranker, Tokens
from tokensieve_strategies._maths.dpp import Picks, greedy_map
from tokensieve_strategies._maths.vectors import require_finite, unit

_FLOOR = 1e-6
"""Keeps the least relevant token's relevance positive, and a flat one at 1."""


class QCSP(Ranker):
    """Keeps tokens that are relevant to the question and different from each other.

    The relevance r_i is `sign` * mean over texts m of cos(e_i, t_m), brought to (0, 1] within the
    group by (s - min + 1e-6) / (max - min + 1e-6); a row without a question has r = 1. The order is
    that of greedy MAP of the determinantal point process with the kernel

        L = diag(r) S diag(r),    S_ij = cos(x_i, x_j),

    which grows log det L_I = 2 sum log r_i + log det S_I token by token.

    Paper: Script, 2025; the same as CDPruner, 2506.10967. How ours differs from the released code:
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
        """The tokens, and the question beside them."""
        return frozenset({Evidence.FEATURES, Evidence.QUERY})

    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Order by greedy picks."""
        query = tokens.query
        require_finite(tokens.features, tokens.valid, "qcsp: the features")
        require_finite(query.patch, tokens.valid, "qcsp: the query's patches")
        require_finite(query.text, query.mask, "qcsp: the query's texts")
        quality = relevance(query, tokens.valid)
        picks = greedy_map(tokens.features, quality, tokens.valid, min(depth, tokens.universe.n))
        return Chain.from_picks(tokens.universe, picks.places, self, _notes(tokens, picks))


def relevance(query: Query, valid: Tensor) -> Tensor:
    """Give float32 `[rows, n]` in (0, 1]: how much each token has to do with the question."""
    if not valid.shape[1]:
        return torch.ones(valid.shape, device=valid.device)
    texts = unit(query.text.masked_fill(~query.mask.unsqueeze(-1), 0)).sum(dim=1, keepdim=True)
    mean = texts / query.mask.sum(dim=1).clamp(min=1).reshape(-1, 1, 1)
    similarity = query.sign * (unit(query.patch) * mean).sum(dim=-1)
    low = similarity.masked_fill(~valid, torch.inf).amin(dim=1, keepdim=True)
    high = similarity.masked_fill(~valid, -torch.inf).amax(dim=1, keepdim=True)
    scaled = (similarity - low + _FLOOR) / (high - low + _FLOOR)
    # To float32: what float64 leaves to rounding is a tie.
    return torch.where(query.mask.any(dim=1, keepdim=True) & valid, scaled, 1.0).float()


def _notes(tokens: Tokens, picks: Picks) -> tuple[str, ...]:
    """Say in which rows the order is not what the formula says."""
    asked = tokens.universe.counts.clamp(max=picks.places.shape[1])
    facts = torch.stack([picks.rank, asked, tokens.query.mask.any(dim=1).long()], dim=1).tolist()
    notes: list[str] = []
    for row, (rank, places, questioned) in enumerate(facts):
        if places and not questioned:
            notes.append(f"qcsp: no question in row {row}; every token is equally relevant")
        if rank < places:
            filled = f"{places - rank} places filled by relevance"
            notes.append(f"qcsp: rank {rank} reached in row {row}; {filled}")
    return tuple(notes)
