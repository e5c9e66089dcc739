"""PruneVid: what hardly changes in a scene is merged over time, and all of it in space."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor

from tokensieve import Chain, Evidence, Merger, Reduction, Tokens
from tokensieve.algebra.budget import simplest
from tokensieve_strategies._maths.density import density_peaks
from tokensieve_strategies._maths.homes import Part, chain_of, merge_parts, reduction_of
from tokensieve_strategies._maths.segments import frame_table, pictures
from tokensieve_strategies._maths.vectors import normalize, require_finite, round_for_ties


class PruneVid(Merger):
    """Merges static tokens of a scene over time, and static and dynamic ones in space.

    The frames of a video are clustered by their mean tokens into max(1, round(`scenes` T)) of T (density peaks of
    `neighbours`); consecutive frames of one cluster are a scene. A place is static in a scene of several frames if
    the mean cosine of all pairs of its tokens is `threshold` or more; its tokens become their mean. All others are
    dynamic. The k places are apportioned to parts by their sizes (Sainte-Laguë): the static places of each scene, and
    the dynamic tokens of each frame. A part of c places is clustered into c (density peaks again), and each
    cluster becomes its mean, in the place of its centre, a static one where its first frame has it. A part without
    a place is dropped, which happens only where there are fewer places than parts.

    Paper: Huang et al., PruneVid, Findings of ACL 2025; its code is not for all uses, and was not read. How ours
    differs: the budget is exact, where the paper takes the same part of all; a cluster of frames that is
    interrupted is several scenes, for the paper's consist of consecutive frames; where there are more places than
    static places and dynamic tokens, static ones of later frames come in; how many neighbours is not said.

    Attributes:
        threshold: mean cosines from it on are static.
        scenes: clusters of frames, as a part of the frames.
        neighbours: how many neighbours a density looks at.
    """

    name = "prunevid"
    nested = False
    paper = "https://arxiv.org/abs/2412.16117"
    complexity = ("O(n d + f² d + parts p² d), f frames, p places", "O(n d + f² + p²)")
    examples = ({}, {"threshold": 0.0, "scenes": 0.5, "neighbours": 2})

    threshold: float = Field(default=0.8, ge=-1, le=1)
    scenes: float = Field(default=0.25, gt=0, le=1)
    neighbours: int = Field(default=5, ge=1)

    @property
    def needs(self) -> frozenset[Evidence]:
        """The features of the tokens, and the grid."""
        return frozenset({Evidence.FEATURES, Evidence.GRID})

    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Return the set of `depth` tokens."""
        parts, sizes = self._all_parts(tokens), tokens.universe.sizes
        return chain_of(self, tokens, depth, lambda row, k: merge_parts(parts[row], sizes[row], k, self._clustered))

    def assign(self, tokens: Tokens, keep: Tensor) -> Reduction:
        """Merge the clusters."""
        parts, sizes = self._all_parts(tokens), tokens.universe.sizes
        return reduction_of(tokens, keep, lambda row, k: merge_parts(parts[row], sizes[row], k, self._clustered))

    def _all_parts(self, tokens: Tokens) -> list[list[Part]]:
        require_finite(tokens.features, tokens.valid, "prunevid: the features")
        return [
            [*self._parts(tokens.features[row, :n].detach(), tokens.grid[row, :n])]
            for row, n in enumerate(tokens.universe.sizes)
        ]

    def _parts(self, x: Tensor, grid: Tensor) -> Iterator[Part]:
        """Yield the static places of every scene, and the dynamic tokens of every frame."""
        for own in pictures(grid):
            table = frame_table(grid[own, 2:])
            table = own[table.clamp(min=0)].where(table >= 0, -1)
            for scene in self._scenes(x, table):
                static = (table[scene] >= 0).all(dim=0) & (scene.stop - scene.start > 1)
                members = table[scene][:, static].T
                static[static.clone()] = _mean_cosine(x[members]) >= self.threshold
                members = table[scene][:, static].T
                if len(members):
                    yield Part(members, x[members].double().mean(dim=1))
                for frame in table[scene][:, ~static]:
                    dynamic = frame[frame >= 0]
                    if len(dynamic):
                        yield Part(dynamic.unsqueeze(1), x[dynamic])

    def _scenes(self, x: Tensor, table: Tensor) -> list[slice]:
        """Return the runs of frames of one cluster; `table` is int64 `[frames, places]`, as of `frame_table`."""
        mean = torch.stack([x[frame[frame >= 0]].double().mean(dim=0) for frame in table])
        number = max(1, round(simplest(self.scenes) * len(table)))
        cluster = density_peaks(mean, number, self.neighbours)[1]
        edges = [0, *((cluster[1:] != cluster[:-1]).nonzero().flatten() + 1).tolist(), len(table)]
        return [slice(start, stop) for start, stop in pairwise(edges)]

    def _clustered(self, part: Part, places: int) -> tuple[Tensor, Tensor]:
        """Return the centre of each unit's cluster, and its share of the cluster's mean."""
        home = density_peaks(part.vectors.double(), places, self.neighbours)[1]
        return home, 1 / home.bincount(minlength=len(home))[home].double()


def _mean_cosine(x: Tensor) -> Tensor:
    """Return the mean cosine of all pairs of m vectors, float64 `[units]`, for `x` `[units, m, d]`; 0 if m is 1."""
    unit, m = normalize(x), x.shape[1]
    pairs = unit.sum(dim=1).square().sum(dim=1) - unit.square().sum(dim=(1, 2))
    return round_for_ties(pairs / max(1, m * (m - 1)))
