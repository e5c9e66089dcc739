"""Norm: the norm of a token's features."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from tokensieve import Scorer, Tokens


class Norm(Scorer):
    """Keeps the tokens with the largest norms.

    score_i = (sum over c of |x_ic|^p)^(1/p).

    A baseline without a paper. The score of a token does not depend on other tokens.

    Attributes:
        p: which norm.
    """

    name = "norm"
    complexity = ("O(n d)", "O(n d)")
    examples = ({}, {"p": 1.0})

    p: float = Field(default=2.0, gt=0, allow_inf_nan=False)

    def score(self, tokens: Tokens) -> Tensor:
        """Return the norm of each token's features."""
        norms: Tensor = torch.linalg.vector_norm(tokens.features.double(), self.p, dim=-1)
        return norms
