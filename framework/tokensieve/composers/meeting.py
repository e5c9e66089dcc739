"""How deep orders have to be read until they meet in k tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tokensieve.algebra.chain import Chain

Levels = NDArray[np.int64]


def further(chains: Sequence[Chain], k: int, depth: int) -> int:
    """Return the depth at which k tokens of every row are likely in all chains; 0 if they are already.

    What is known is counted: of a complete order all of it, of the others their first `depth` places. Of what is not
    known, every token left is as likely as any other to come next. The answer is where k are expected and half a
    standard deviation more, so that a second look is seldom needed and little is read in vain.

    Args:
        chains: rankings of the same tokens, in canonical form, each right to at least `depth`.
        k: how many tokens are wanted.
        depth: to which all chains are right.
    """
    universe = chains[0].universe
    if all(chain.complete for chain in chains):
        return 0
    levels = [chain.level_on_host for chain in chains]
    wanted = [
        _of_row([level[row, :n] for level in levels], [chain.complete for chain in chains], min(k, n), depth)
        for row, n in enumerate(universe.sizes)
    ]
    return max(wanted, default=0)


def _of_row(levels: Sequence[Levels], complete: Sequence[bool], k: int, depth: int) -> int:
    n = len(levels[0])
    met = np.maximum.reduce(levels)
    if n <= depth or int((met < depth).sum()) >= k:
        return 0
    known = np.full(n, -1)
    open_in = np.zeros(n, dtype=np.int64)
    for level, whole in zip(levels, complete, strict=True):
        known = np.maximum(known, np.where(whole | (level < depth), level, -1))
        open_in += ~(whole | (level < depth))
    deeper = np.arange(depth + 1, n + 1)
    chance = (deeper - depth) / (n - depth)
    expected = np.zeros(len(deeper))
    variance = np.zeros(len(deeper))
    for missing in range(int(open_in.max()) + 1):
        # How many tokens are known to be early enough, by depth.
        there = np.bincount(known[open_in == missing] + 1, minlength=n + 1).cumsum()[deeper]
        expected += there * chance**missing
        variance += there * chance**missing * (1 - chance**missing)
    enough = expected - np.sqrt(variance) / 2 >= k
    return int(deeper[enough.argmax()]) if enough.any() else n
