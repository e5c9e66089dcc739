"""Points spread over a grid by greedy max-min: a matter of the grid's shape, so it is computed on the host, once."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import sha256
from threading import Lock

import numpy as np
from numpy.typing import NDArray

_LAYOUTS = 64
"""How many grids are remembered: a server sees the same few."""
_ROUND = 2.0**30

_known: OrderedDict[bytes, _Spread] = OrderedDict()
_lock = Lock()


def spread_order(grid: NDArray[np.int64], depth: int) -> list[int]:
    """Return the first `depth` places of a grid's greedy max-min order, the lowest place on ties.

    Args:
        grid: `[n, 5]`: image, tile, frame, row, column.
        depth: how many, at most n.
    """
    key = sha256(np.ascontiguousarray(grid).tobytes()).digest()
    with _lock:
        spread = _known.get(key)
        if spread is None:
            spread = _known[key] = _Spread(grid)
        _known.move_to_end(key)
        while len(_known) > _LAYOUTS:
            _known.popitem(last=False)
        return spread.to(depth)


class _Spread:
    """The order of one grid, as far as it was asked for."""

    def __init__(self, grid: NDArray[np.int64]) -> None:
        low, high = grid.min(axis=0), grid.max(axis=0)
        extent = np.maximum(high - low, 1)
        extent[3:] = extent[3:].max()
        # The middle has the coordinates 0. Columns, so that a step runs over whole arrays.
        self._at = np.ascontiguousarray(((2 * grid - low - high) / (2.0 * extent)).T)
        self._order: list[int] = []
        self._nearest = np.full(len(grid), np.inf)
        self._pick = int(_rounded(np.square(self._at).sum(axis=0)).argmin())

    def to(self, depth: int) -> list[int]:
        while len(self._order) < depth:
            self._order.append(self._pick)
            apart = _rounded(np.square(self._at - self._at[:, self._pick : self._pick + 1]).sum(axis=0))
            np.minimum(self._nearest, apart, out=self._nearest)
            # What is picked is never the farthest again, also where only copies of it are left.
            self._nearest[self._pick] = -np.inf
            self._pick = int(self._nearest.argmax())
        return self._order[:depth]


def _rounded(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return squared distances rounded, so that those that differ by less are equal."""
    return np.rint(x * _ROUND)
