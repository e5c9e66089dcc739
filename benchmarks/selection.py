"""The time of selection, relative to the matrix products and memory passes that its arithmetic needs at least.

Each ratio is taken side by side, turn by turn, and reported as the median of the turns. Inputs are
random vectors; what is timed does not depend on what they say.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import Tensor

import tokensieve as ts
from benchmarks.engine import timed
from tokensieve.testing.memory import peak
from tokensieve_strategies._maths.dpp import greedy_map
from tokensieve_strategies._maths.maxmin import max_min
from tokensieve_strategies._maths.vectors import normalize

TOKENS, KEEP, WIDTH = 2880, 320, 1024
"""Five tiles of an image, one ninth of their tokens, and features as wide as CLIP-L's."""
VIDEO = 6272
"""32 frames of 14 x 14 tokens."""


def all_ratios(repeats: int) -> dict[str, float]:
    """Return all timings of this module."""
    return maxmin(repeats) | greedy(repeats) | graph(repeats)


def maxmin(repeats: int) -> dict[str, float]:
    """Compare max-min with a running minimum to a scan of all picks at every step, as in published code."""
    x = normalize(_features(TOKENS))
    apart = 1 - x @ x.T
    valid = torch.ones(1, TOKENS, dtype=torch.bool)
    first = torch.zeros(1, dtype=torch.int64)

    def ours() -> Tensor:
        return max_min(lambda places: apart[places], valid, first, KEEP)

    def scanned() -> Tensor:
        picks = [0]
        while len(picks) < KEEP:
            nearest = apart[picks].amin(dim=0)
            nearest[picks] = -1
            picks.append(int(nearest.argmax()))
        return torch.tensor([picks])

    if not torch.equal(ours(), scanned()):
        raise RuntimeError("the two ways to max-min pick other tokens, so their times say nothing")
    return {f"max-min, {KEEP} of {TOKENS:,} / scanning all picks anew": _ratio(repeats, ours, scanned)}


def greedy(repeats: int) -> dict[str, float]:
    """Compare greedy MAP with one product of all similarities and a pass over the factor for every pick."""
    x = _features(TOKENS)
    quality = torch.rand(1, TOKENS, generator=torch.Generator().manual_seed(2))
    valid = torch.ones(1, TOKENS, dtype=torch.bool)
    wide = normalize(x)
    factor = torch.ones(KEEP, TOKENS, dtype=torch.float64)
    row = torch.ones(1, KEEP, dtype=torch.float64)

    def roofline() -> None:
        wide @ wide.T
        for _ in range(KEEP):
            row @ factor

    ratio = _ratio(repeats, lambda: greedy_map(x.unsqueeze(0), quality, valid, KEEP), roofline)
    return {f"greedy MAP, {KEEP} of {TOKENS:,} / product and passes": ratio}


def graph(repeats: int) -> dict[str, float]:
    """Compare gsp with one matrix product of the two halves of the tokens, and measure its memory."""
    gsp = ts.default_registry().strategy("gsp")
    tokens = ts.Tokens.of(_features(VIDEO).unsqueeze(0))
    even, odd = (tokens.features[0, side::2].double() for side in (0, 1))
    out = {}
    for label, strategy in (("tau", gsp(tau=0.2)), ("quantile", gsp())):

        def score(strategy: ts.Strategy = strategy) -> object:
            return strategy.judge(tokens, 1)

        out[f"gsp by {label}, {VIDEO:,} tokens / one product"] = _ratio(repeats, score, lambda: even @ odd.T)
        out[f"gsp by {label}, {VIDEO:,} tokens, MiB beside its input"] = peak(score) / 2**20
    return out


def _features(n: int) -> Tensor:
    return torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(1))


def _ratio(repeats: int, ours: Callable[[], object], other: Callable[[], object]) -> float:
    ours(), other()
    return statistics.median(timed(ours) / timed(other) for _ in range(repeats))
