"""The relevance of tokens to a question."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tokensieve import Query
from tokensieve_strategies._maths.vectors import normalize, require_finite

_FLOOR = 1e-6
"""Makes the smallest relevance positive, and all relevances 1 if all similarities are equal."""


def query_similarity(query: Query, valid: Tensor, cosine: bool = True) -> Tensor:
    """Return `sign` * mean over texts m of cos(e_i, t_m), float64 `[rows, n]`; 0 in a row without a question.

    Every text counts the same, however long its vector. Without `cosine` it is the mean of inner products, by which
    long vectors count more.
    """
    texts = query.text.masked_fill(~query.mask.unsqueeze(-1), 0)
    texts = normalize(texts) if cosine else texts.double()
    mean = texts.sum(dim=1, keepdim=True) / query.mask.sum(dim=1).clamp(min=1).reshape(-1, 1, 1)
    # Lengths are divided by at the end, so that of the patches there is no second copy.
    patches = query.patch.double()
    similar: Tensor = (patches @ mean.mT).squeeze(-1)
    if cosine:
        length: Tensor = torch.linalg.vector_norm(patches, dim=-1)
        similar = similar / length.where(length > 0, 1.0)
    return (query.sign * similar).where(valid, 0.0)


def relevance(query: Query, valid: Tensor, cosine: bool = True) -> Tensor:
    """Return the similarities of each row's tokens scaled to (0, 1], float32 `[rows, n]`.

    A similarity s becomes (s - min + 1e-6) / (max - min + 1e-6), with min and max over the row; 1 without a question.
    """
    if not valid.shape[1]:
        return torch.ones(valid.shape, device=valid.device)
    similar = query_similarity(query, valid, cosine)
    low = similar.masked_fill(~valid, torch.inf).amin(dim=1, keepdim=True)
    high = similar.masked_fill(~valid, -torch.inf).amax(dim=1, keepdim=True)
    scaled = (similar - low + _FLOOR) / (high - low + _FLOOR)
    # In float32, values that differ by rounding alone are ties.
    return torch.where(query.mask.any(dim=1, keepdim=True) & valid, scaled, 1.0).float()


def require_query(query: Query, valid: Tensor, who: str) -> None:
    """Raise `ScoreError` if a valid token's or text's vector holds NaN or an infinity."""
    require_finite(query.patch, valid, f"{who}: the query's patches")
    require_finite(query.text, query.mask, f"{who}: the query's texts")


def missing_question_notes(query: Query, valid: Tensor, who: str) -> tuple[str, ...]:
    """Return a note for each row that has tokens and no question."""
    return silent_notes((valid.any(dim=1) & ~query.mask.any(dim=1)).tolist(), who)


def silent_notes(silent: Sequence[bool], who: str) -> tuple[str, ...]:
    """Return a note for each row that is silent: that has tokens and no question."""
    return tuple(
        f"{who}: no question in row {row}; every token is equally relevant" for row, alone in enumerate(silent) if alone
    )
