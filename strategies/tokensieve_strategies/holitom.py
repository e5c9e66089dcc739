"""HoliTom: what stays still over frames is merged over time, then in space; of what moves, the most attended stays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from tokensieve import Chain, Evidence, Merger, Reduction, Tokens
from tokensieve.algebra.budget import simplest
from tokensieve_strategies._maths.density import density_peaks
from tokensieve_strategies._maths.homes import Part, balanced, chain_of, merge_parts, reduction_of
from tokensieve_strategies._maths.order import descending_order, mean_over_heads
from tokensieve_strategies._maths.segments import frame_table, pictures, still_segments
from tokensieve_strategies._maths.streamed import paired_cosines
from tokensieve_strategies._maths.vectors import require_finite, round_for_ties


class HoliTom(Merger):
    """Merges what is still over time and in space, and keeps the most attended of what moves.

    A place is still in a run of frames if all cosines of its tokens in consecutive frames are above
    `threshold`. A video is cut into the runs in which still tokens, merged to one a place, save the most
    tokens (dynamic programming). Then there are parts: the still places of each run, with the means of
    their tokens as vectors, and the other tokens of each frame. The k places are apportioned to the parts
    by their sizes (Sainte-Laguë). In a part of c places,

        still:   c centres by density peaks of `neighbours`; every other place joins the nearest one;
        moving:  round((1 - contextual) c) tokens with the most attention, averaged over heads; c centres
                 in all by density peaks of the others, which the rest joins.

    A centre becomes `balance` times itself and 1 - `balance` times the mean of those that joined it. What
    moves and has no centre to join is dropped. A still place stands where its first frame has it.

    Paper: Shao et al., HoliTom, NeurIPS 2025. How ours differs from the released code: the budget is
    exact, where the code rounds part by part; places of equal density are told apart by their order,
    where it adds random numbers; runs end with their picture; where there are more places than still
    places and moving tokens, still ones of later frames come in; runs may be as long as the video.

    Attributes:
        threshold: cosines above it are still.
        contextual: which part of a frame's places is for centres of what moves.
        balance: how much a centre counts beside those that joined it.
        neighbours: how many neighbours a density looks at.
    """

    name = "holitom"
    nested = False
    paper = "https://arxiv.org/abs/2505.21334"
    complexity = ("O(n d + f² p + parts p² d), f frames, p places", "O(n d + p²)")
    examples = ({}, {"threshold": 0.0, "balance": 0.3, "neighbours": 2})
    known_failures: ClassVar = {"mass_conserved": "what moves and is attended to least is dropped"}

    threshold: float = Field(default=0.8, ge=-1, le=1)
    contextual: float = Field(default=0.0, ge=0, le=1)
    balance: float = Field(default=0.6, gt=0, le=1)
    neighbours: int = Field(default=7, ge=1)

    @property
    def needs(self) -> frozenset[Evidence]:
        """The features of the tokens, the grid, and the vision encoder's attention."""
        return frozenset({Evidence.FEATURES, Evidence.GRID, Evidence.VISION_ATTENTION})

    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Return the set of `depth` tokens."""
        parts, sizes = self._all_parts(tokens), tokens.universe.sizes
        return chain_of(self, tokens, depth, lambda row, k: merge_parts(parts[row], sizes[row], k, self._joined))

    def assign(self, tokens: Tokens, keep: Tensor) -> Reduction:
        """Merge the places that are still, and those that have a centre."""
        parts, sizes = self._all_parts(tokens), tokens.universe.sizes
        return reduction_of(tokens, keep, lambda row, k: merge_parts(parts[row], sizes[row], k, self._joined))

    def _all_parts(self, tokens: Tokens) -> list[list[Part]]:
        require_finite(tokens.features, tokens.valid, "holitom: the features")
        attention = mean_over_heads(tokens.vision_attention, tokens.valid, "holitom: the vision attention")
        return [
            [*self._parts(tokens.features[row, :n].detach(), tokens.grid[row, :n], attention[row, :n])]
            for row, n in enumerate(tokens.universe.sizes)
        ]

    def _parts(self, x: Tensor, grid: Tensor, attention: Tensor) -> Iterator[Part]:
        """Yield the still places of every run of frames, and what moves in every frame."""
        for own in pictures(grid):
            table = frame_table(grid[own, 2:])
            table = own[table.clamp(min=0)].where(table >= 0, -1)
            alike = (table[:-1] >= 0) & (table[1:] >= 0)
            pairs = paired_cosines(x, table[:-1][alike], table[1:][alike])
            alike[alike.clone()] = round_for_ties(pairs) > self.threshold
            for run in still_segments(alike):
                still = alike[run.start : run.stop - 1].all(dim=0) & (run.stop - run.start > 1)
                members = table[run][:, still].T
                if len(members):
                    yield Part(members, x[members].double().mean(dim=1), None)
                for frame in table[run][:, ~still]:
                    moving = frame[frame >= 0]
                    if len(moving):
                        yield Part(moving.unsqueeze(1), x[moving], attention[moving])

    def _joined(self, part: Part, places: int) -> tuple[Tensor, Tensor]:
        """Return which unit of a part each of its units joins, -1 for none, and its share of what they become."""
        units = torch.arange(len(part.members), device=part.members.device)
        nearest = torch.full_like(units, -1)
        left, centres = units, places
        if part.attention is not None:
            order = descending_order(part.attention)
            dominant = order[: round((1 - simplest(self.contextual)) * places)]
            nearest[dominant] = dominant
            left, centres = order[len(dominant) :].sort().values, places - len(dominant)
        if centres:
            nearest[left] = left[density_peaks(part.vectors[left].double(), centres, self.neighbours)[1]]
        return nearest, balanced(nearest, self.balance)
