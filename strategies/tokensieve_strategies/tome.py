"""ToMe: token merging by bipartite soft matching."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tokensieve import Chain, Evidence, Merger, Reduction, Tokens
from tokensieve.algebra.doubts import refuse_if, settled_together
from tokensieve.errors import ScoreError
from tokensieve_strategies._maths.matching import merge_down
from tokensieve_strategies._maths.vectors import require_finite


class ToMe(Merger):
    """Merges the most similar tokens in rounds of bipartite soft matching.

    A round splits the tokens of a group alternately into A and B by their place; every token of A
    proposes to its most similar token of B, s_i = max over j in B of cos(m_i, m_j); the r best
    proposals win, and x_j <- sum of size * x over those that meet in j / sum of their sizes. Rounds
    halve the group until `keep` tokens remain; the last one merges only as many as it must.

    Paper: Bolya et al., Token Merging: Your ViT But Faster, ICLR 2023, which merges r tokens in
    every layer. How ours differs: it reaches any count at one site, and halving with a partial last
    round makes the survivors nested, so that ToMe is an order too and can be composed. Tokens stay
    in their order. What must not be merged, such as CLS, is not among the tokens. A stage in every
    layer of the encoder is the paper's schedule.

    Attributes:
        metric: what is compared: the vectors at the site, or the vision encoder's keys averaged
            over heads, as in the paper.
    """

    name = "tome"
    paper = "https://arxiv.org/abs/2210.09461"
    complexity = ("O(n² d)", "O(n²)")
    examples = ({}, {"metric": "keys"})
    known_failures: ClassVar = {"ties_by_id": "which side a token is on, and so whom it joins, goes by its place"}

    metric: Literal["features", "keys"] = "features"

    @property
    def needs(self) -> frozenset[Evidence]:
        """The metric, and the sizes of the tokens."""
        compared = Evidence.FEATURES if self.metric == "features" else Evidence.VISION_KEYS
        return frozenset({compared, Evidence.SIZES})

    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Return the order of survival: the token that is merged last comes first."""
        x = self._compared(tokens)
        picks = torch.full_like(tokens.ids, -1)
        for (n,), rows in _equal_rows([(n,) for n in tokens.universe.sizes]):
            merging = merge_down(_of(x, rows, n), _of(tokens.sizes, rows, n), keep=1)
            picks[rows, :n] = torch.cat([merging.remaining, merging.removed.flip(1)], dim=1)
        return Chain.from_picks(tokens.universe, picks, self)

    def assign(self, tokens: Tokens, keep: Tensor) -> Reduction:
        """Merge every token into the one that remains in its place."""
        return self.fold(tokens, keep)[1]

    def fold(self, tokens: Tokens, keep: Tensor) -> tuple[Tensor, Reduction]:
        """Return the kept tokens and the reduction. Merging stops at `keep` tokens; `rank` goes on to the last one."""
        x = self._compared(tokens)
        kept = torch.zeros_like(tokens.valid)
        owner = torch.zeros_like(tokens.ids)
        sizes = [(n, min(n, k)) for n, k in zip(tokens.universe.sizes, keep.tolist(), strict=True)]
        for (n, k), rows in _equal_rows(sizes):
            merging = merge_down(_of(x, rows, n), _of(tokens.sizes, rows, n), max(1, k))
            own = torch.zeros_like(merging.owner, dtype=torch.bool).scatter_(1, merging.remaining, k > 0)
            kept[rows, :n], owner[rows, :n] = own, merging.owner
        widest = max((k for _, k in sizes), default=0)
        return kept, Reduction.merge(tokens.universe, kept, owner, tokens.sizes, widest)

    def _compared(self, tokens: Tokens) -> Tensor:
        x = tokens.features if self.metric == "features" else tokens.vision_keys
        with settled_together():
            require_finite(x, tokens.valid, f"tome: the {self.metric}")
            # NaN is less than nothing.
            refuse_if(
                (tokens.valid > (tokens.sizes < torch.inf)).any(),
                lambda: ScoreError("tome: the sizes hold NaN or an infinity, so tokens cannot be merged by them"),
            )
        return x


def _equal_rows(keys: Sequence[tuple[int, ...]]) -> list[tuple[tuple[int, ...], list[int] | slice]]:
    """Return groups of rows that have equal keys; rows without tokens, whose key begins with 0, are left out."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, key in enumerate(keys):
        if key[0]:
            groups.setdefault(key, []).append(row)
    # Of a slice there is no copy.
    return [(key, slice(None) if len(rows) == len(keys) else rows) for key, rows in groups.items()]


def _of(x: Tensor, rows: list[int] | slice, n: int) -> Tensor:
    """Return the first n tokens of some rows."""
    return x[rows, :n]
