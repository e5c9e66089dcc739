"""FastVID: videos are cut where frames change; density peaks stand for a segment, beside the most attended tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from tokensieve import Chain, Evidence, Merger, Reduction, Tokens
from tokensieve.algebra.budget import simplest
from tokensieve_strategies._maths.density import peak_order
from tokensieve_strategies._maths.homes import Homes, balanced, chain_of, reduction_of, shares
from tokensieve_strategies._maths.order import descending_order, mean_over_heads
from tokensieve_strategies._maths.segments import cut_where_frames_change
from tokensieve_strategies._maths.vectors import normalize, require_finite, round_for_ties


class FastVID(Merger):
    """Keeps, in every segment of a video, density peaks that the rest is merged into, and the most attended tokens.

    A video is cut between two frames if the cosine of their mean tokens is below `threshold`, or among the
    `segments` - 1 smallest. The k places are apportioned to segments by their sizes (Sainte-Laguë). Of the
    c places of a segment

        c - m, with m = round(contextual c), are for the tokens with the most attention, averaged over heads,
            shared by all frames;
        m are for anchors, shared by every `interval`-th frame, beginning with the first: the density peaks of what
            is left of it, those with the largest density times distance to the nearest denser token.

    What neither has room for goes to attended tokens. All other tokens of the segment join the anchor with the
    largest cosine. An anchor becomes `balance` times itself and 1 - `balance` times the mean of those that
    joined it. Without an anchor they are dropped.

    Paper: Shen et al., FastVID, NeurIPS 2025. What it leaves open is as in the code: attended tokens are chosen first,
    and distances are divided by the root of the width. How ours differs: the budget is exact; a token joins one
    anchor of its segment, where the paper assigns it once for each anchor frame; tokens of equal density are told
    apart by their place, where the code adds random numbers; the code counts anchor frames from the last one,
    and an anchor among those that joined it; attention is what the adapter offers, where the paper adds SigLIP's head.

    Attributes:
        threshold: cosines of frames below it are cuts.
        segments: how many segments there are at least.
        contextual: which part of the places is for anchors.
        interval: every how many frames there are anchors.
        balance: how much an anchor counts beside those that joined it.
        neighbours: how many neighbours a density looks at, the token among them.
    """

    name = "fastvid"
    nested = False
    paper = "https://arxiv.org/abs/2503.11187"
    complexity = ("O(n k d + frames p² d), p tokens a frame", "O(n (d + k) + p²)")
    examples = ({}, {"threshold": 0.0, "segments": 2, "contextual": 0.8, "interval": 2, "balance": 0.3})
    known_failures: ClassVar = {"mass_conserved": "a segment with one place has no anchor for the rest to join"}

    threshold: float = Field(default=0.9, ge=-1, le=1)
    segments: int = Field(default=8, ge=1)
    contextual: float = Field(default=0.4, ge=0, le=1)
    interval: int = Field(default=4, ge=1)
    balance: float = Field(default=0.6, gt=0, le=1)
    neighbours: int = Field(default=4, ge=1)

    @property
    def needs(self) -> frozenset[Evidence]:
        """The features of the tokens, the grid, and the vision encoder's attention."""
        return frozenset({Evidence.FEATURES, Evidence.GRID, Evidence.VISION_ATTENTION})

    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Return the set of `depth` tokens."""
        attention = self._attention(tokens)
        return chain_of(self, tokens, depth, lambda row, k: self._merged(tokens, attention, row, k))

    def assign(self, tokens: Tokens, keep: Tensor) -> Reduction:
        """Merge what does not stay into the anchors of its segment."""
        attention = self._attention(tokens)
        return reduction_of(tokens, keep, lambda row, k: self._merged(tokens, attention, row, k))

    def _attention(self, tokens: Tokens) -> Tensor:
        require_finite(tokens.features, tokens.valid, "fastvid: the features")
        return mean_over_heads(tokens.vision_attention, tokens.valid, "fastvid: the vision attention")

    def _merged(self, tokens: Tokens, attention: Tensor, row: int, k: int) -> Homes:
        """Return the homes of a row's tokens in k places."""
        n = tokens.universe.sizes[row]
        x, grid = tokens.features[row, :n].detach(), tokens.grid[row, :n]
        home = torch.full((n,), -1, device=x.device)
        found = cut_where_frames_change(x, grid, self.threshold, self.segments)
        for segment, places in zip(found, shares([sum(map(len, one)) for one in found], k), strict=True):
            number = round(simplest(self.contextual) * places)
            self._take(home, segment, places - number, lambda frame: descending_order(attention[row, frame]))
            few = segment[:: self.interval]
            anchors = self._take(home, few, number, lambda frame: peak_order(x[frame].double(), self.neighbours))
            self._take(home, segment, number - len(anchors), lambda frame: descending_order(attention[row, frame]))
            if len(anchors):
                left = torch.cat([frame[home[frame] < 0] for frame in segment])
                alike = round_for_ties(normalize(x[left]) @ normalize(x[anchors]).T)
                home[left] = anchors[alike.argmax(dim=1)]
        return Homes(home, balanced(home, self.balance))

    @staticmethod
    def _take(home: Tensor, frames: list[Tensor], number: int, order: Callable[[Tensor], Tensor]) -> Tensor:
        """Let `number` tokens stay, the first of each frame's order of what is left of it; return them, ascending."""
        free = [frame[home[frame] < 0] for frame in frames]
        each = zip(free, shares([*map(len, free)], number), strict=True)
        taken = torch.cat([home[:0], *(frame[order(frame)[:few]] for frame, few in each if few)]).sort().values
        home[taken] = taken
        return taken
