"""Temporal: tokens that changed since the frame before."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from tokensieve import Evidence, Scorer, Tokens
from tokensieve_strategies._maths.grid import neighbours, predecessors
from tokensieve_strategies._maths.streamed import paired_cosines
from tokensieve_strategies._maths.vectors import require_finite, round_for_ties

_FIRST_FRAME = 4.0
"""Added to the scores of first frames; larger than any other score, which lies in [0, 2]."""


class Temporal(Scorer):
    """Keeps the first frame of each group of frames, and of the other frames the tokens that changed.

    The frames of a video are taken in groups of `frames`: frame f is in group floor(f / frames). A
    token's predecessor is the token before it at the same place of the picture, in its group:

        score_i = 1 - cos(x_i, x_pred(i)),         where it has a predecessor;
        score_i = 4 + 1 - mean of cos(x_i, x_j),   where not, over its neighbours j in the frame.

    So first frames come before all others. Among their tokens, and in pictures without time, those
    come first that resemble the tokens to their left, right, above and below least.

    Paper: Tao et al., DyCoke, CVPR 2025. How ours differs: the budget is of the whole video, so a
    frame in which much changes gets more tokens than a still one, and the same part of each frame is
    not dropped; frames of a group are compared one after the other; a group may be cut short, so no
    last frame is lost; the pruning of the cache while decoding is no part of it. With `frames`
    larger than the video, each frame is compared with the one before, as in FrameFusion.

    Attributes:
        frames: how many frames there are in a group.
    """

    name = "temporal"
    paper = "https://arxiv.org/abs/2411.15024"
    complexity = ("O(n d)", "O(n d)")
    examples = ({}, {"frames": 1}, {"frames": 1000})

    frames: int = Field(default=4, ge=1)

    @property
    def needs(self) -> frozenset[Evidence]:
        """The features of the tokens, and the grid."""
        return frozenset({Evidence.FEATURES, Evidence.GRID})

    def score(self, tokens: Tokens) -> Tensor:
        """Return the scores of each group, computed from that group alone."""
        require_finite(tokens.features, tokens.valid, "temporal: the features")
        scores = torch.zeros(tokens.valid.shape, dtype=torch.float64, device=tokens.valid.device)
        for row, n in enumerate(tokens.universe.counts.tolist()):
            scores[row, :n] = self._novelty(tokens.features[row, :n], tokens.grid[row, :n])
        return scores

    def _novelty(self, x: Tensor, grid: Tensor) -> Tensor:
        before = predecessors(grid, self.frames)
        around = neighbours(grid)
        places = torch.arange(len(x), device=x.device)
        total, number = (x.new_zeros(len(x), dtype=torch.float64) for _ in range(2))
        key = before < 0
        for side in around.unbind(dim=1):
            there = key & (side >= 0)
            total[there] += round_for_ties(paired_cosines(x, places[there], side[there]))
            number += there
        score = _FIRST_FRAME + 1 - total / number.clamp(min=1)
        score[~key] = 1 - round_for_ties(paired_cosines(x, places[~key], before[~key]))
        return score
