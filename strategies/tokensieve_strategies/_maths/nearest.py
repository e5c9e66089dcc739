"""How similar tokens are to the nearest of some others, asked again and again while tokens leave."""

from __future__ import annotations

import torch
from torch import Tensor

NEIGHBOURS = 16
"""How many neighbours of a token are listed."""
DENSE = 640
"""For so many tokens all similarities are looked at: these are fewer operators, and the host does not wait."""


class Nearest:
    """Returns the largest similarity of tokens to any of others, exactly.

    Each token has a list of its nearest ones, and the first of them that is asked for is the answer. Where none is, all
    similarities are looked at. When half of the listed tokens have left, the others are listed anew, so that all lists
    together cost about as much as two looks at all similarities.

    Args:
        similar: `[n, n]`, finite.
    """

    def __init__(self, similar: Tensor) -> None:
        self._similar = similar
        self._listed = 2 * len(similar) + 2
        self._ids = self._values = similar

    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the largest similarity `[len(a)]` of each token of `a` to one of `b`.

        Args:
            a: int64, ids of tokens.
            b: int64, ids of other tokens, at least one. Tokens in neither have left, and are in no later call.
        """
        if len(a) + len(b) <= DENSE:
            return self._similar[a.unsqueeze(1), b].amax(dim=1)
        if 2 * (len(a) + len(b)) <= self._listed:
            self._list(torch.cat([a, b]))
        asked = torch.zeros(len(self._similar), dtype=torch.bool, device=b.device)
        asked[b] = True
        hits = asked[self._ids[a]]
        best = self._values[a].masked_fill(~hits, -torch.inf).amax(dim=1)
        missed = (~hits.any(dim=1)).nonzero().squeeze(1)
        if len(missed):
            best[missed] = self._similar[a[missed].unsqueeze(1), b].amax(dim=1)
        return best

    def _list(self, ids: Tensor) -> None:
        """List the nearest ones of all tokens that are left."""
        among = self._similar[ids.unsqueeze(1), ids].fill_diagonal_(-torch.inf)
        values, places = among.topk(min(NEIGHBOURS, len(ids)), dim=1)
        self._ids = places.new_zeros(len(self._similar), places.shape[1])
        self._values = values.new_zeros(len(self._similar), places.shape[1])
        self._ids[ids], self._values[ids] = ids[places], values
        self._listed = len(ids)
