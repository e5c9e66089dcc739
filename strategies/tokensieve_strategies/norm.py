"""Norm: how large a token's vector is."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from tokensieve import Scorer, Tokens


class Norm(Scorer):
    """Keeps the tokens with the largest vectors.

    score_i = (sum over c of |x_ic|^p)^(1/p).

    A baseline without a paper: it looks at each token alone.

    Attributes:
        p: which norm.
    """

    name = "norm"
    examples = ({}, {"p": 1.0})

    p: float = Field(default=2.0, gt=0, allow_inf_nan=False)

    def score(self, tokens: Tokens) -> Tensor:
        """Measure every vector."""
        norms: Tensor = torch.linalg.vector_norm(tokens.features.double(), self.p, dim=-1)
        return norms
