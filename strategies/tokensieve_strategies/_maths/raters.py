"""Raters: the text tokens that match the picture, whose attention is asked."""

from __future__ import annotations

import torch
from torch import Tensor

from tokensieve import PromptText

_SLACK = 2.0**-30
"""Tolerance for rounding: a text token is above the mean if it is by more than this."""


def raters(words: PromptText, valid: Tensor, among: Tensor) -> Tensor:
    """Return bool `[rows, m]`: which of the text tokens `among` `[rows, m]` match the picture more than the mean."""
    patch = words.patch.double().masked_fill(~valid.unsqueeze(-1), 0)
    text = words.embeddings.double().masked_fill(~among.unsqueeze(-1), 0)
    match = (patch @ text.mT).masked_fill(~among.unsqueeze(1), -torch.inf).softmax(dim=2)
    # A row without text tokens is NaN here.
    count = valid.sum(dim=1, keepdim=True).clamp(min=1)
    mean = match.masked_fill(~(among.unsqueeze(1) & valid.unsqueeze(2)), 0).sum(dim=1) / count
    # Each token's matches sum to one, so their mean over words is one in so many.
    above = among & (mean > 1 / among.sum(dim=1, keepdim=True).clamp(min=1).double() + _SLACK)
    return torch.where(above.any(dim=1, keepdim=True), above, among)


def heads_with_most(mass: Tensor, count: int) -> Tensor:
    """Return which heads have the most of `mass` `[rows, heads]`, bool of the same shape; the first ones win ties.

    Compared in float32, so that masses that differ by rounding alone are ties.
    """
    most = mass.float().argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(mass, dtype=torch.bool).scatter(1, most, True)


def no_text_notes(words: PromptText, valid: Tensor, who: str) -> tuple[str, ...]:
    """Return a note for each row that has tokens and no text."""
    silent = valid.any(dim=1) & ~words.mask.any(dim=1)
    return tuple(
        f"{who}: no text in row {row}; tokens rank by their place" for row, alone in enumerate(silent.tolist()) if alone
    )
