"""EVS: the first frame of a video, and of the others what changed most since the frame before."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from tokensieve import Chain, Chooser, Evidence, Tokens
from tokensieve_strategies._maths.grid import predecessors
from tokensieve_strategies._maths.streamed import paired_cosines
from tokensieve_strategies._maths.vectors import require_finite, round_for_ties

_FIRST = 255.0
"""The score of a token without one before it; every other score is in [0, 2]."""
_ALL_FRAMES = 2**40


class EVS(Chooser):
    """Chooses the first frame and the tokens that changed most, as many as servers reserve for a pruning rate.

    The token before another is the one at its place of the picture in the frame before. Tokens rank by

        score_i = 255                       where there is none before it,
        score_i = 1 - cos(x_i, x_before(i)) where there is,

    over the whole video. Of its n tokens, f of which have none before them (the first frame), the set has

        max(f, floor(n (1 - q))).

    With `keep: auto` that is the selection, and its size is what vLLM and TensorRT-LLM reserve for
    `--video-pruning-rate q`, to the token, for it is computed in floating point as they do. Any other
    budget takes so many tokens by their score; one that is smaller than a frame takes the first rows of it.

    Paper: Bagrov et al., Efficient Video Sampling, 2025. It compares patches of pixels, by the L1 norm of
    their difference; the servers' code compares what the vision encoder made of them, and so do we.
    How ours differs from that code: cosines are computed in float64, and those that differ by rounding
    are one; where an earlier stage took tokens away, the last one there before is compared with; a
    picture without time is a first frame, and stays whole.

    Attributes:
        q: the pruning rate: which part of the tokens goes.
    """

    name = "evs"
    paper = "https://arxiv.org/abs/2510.14624"
    complexity = ("O(n d)", "O(n d)")
    examples = ({}, {"q": 0.0}, {"q": 0.9})

    q: float = Field(default=0.75, ge=0, lt=1)

    @property
    def needs(self) -> frozenset[Evidence]:
        """The features of the tokens, and the grid."""
        return frozenset({Evidence.FEATURES, Evidence.GRID})

    @staticmethod
    def reserved(frames: int, tokens_per_frame: int, q: float) -> int:
        """Return how many tokens vLLM and TensorRT-LLM reserve for a video at the pruning rate `q`."""
        return max(tokens_per_frame, int(frames * tokens_per_frame * (1 - q)))

    def choose(self, tokens: Tokens) -> Chain:
        """Return the set of each group; among more or fewer tokens than it has, the score decides."""
        require_finite(tokens.features, tokens.valid, "evs: the features")
        scores = torch.zeros(tokens.valid.shape, dtype=torch.float64, device=tokens.valid.device)
        first = torch.zeros_like(tokens.valid)
        for row, n in enumerate(tokens.universe.sizes):
            before = predecessors(tokens.grid[row, :n], _ALL_FRAMES)
            first[row, :n] = before < 0
            scores[row, :n] = self._changes(tokens.features[row, :n], before)
        reserved = [self._size(n, f) for n, f in zip(tokens.universe.sizes, first.sum(dim=1).tolist(), strict=True)]
        sizes = torch.tensor(reserved, dtype=torch.int64, device=scores.device)
        return Chain.from_scores(tokens.universe, scores, self).fix(sizes)

    def _size(self, n: int, first: int) -> int:
        return max(first, int(n * (1 - self.q)))

    def _changes(self, x: Tensor, before: Tensor) -> Tensor:
        score = torch.full(before.shape, _FIRST, dtype=torch.float64, device=x.device)
        later = (before >= 0).nonzero().flatten()
        score[later] = 1 - round_for_ties(paired_cosines(x, later, before[later]))
        return score
