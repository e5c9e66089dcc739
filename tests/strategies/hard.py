"""Batches that are hard for any strategy, and what must hold on each."""

import torch
from effort import NIGHTLY
from samples import KINDS, row, sample

from tokensieve import Evidence, Tokens, select

SIZES = (0, 1, 2, 3, 5, 7, 12, 20) if NIGHTLY else (0, 1, 5, 20)
COUNTS = (([12, 5], (2, 0)), ([0, 0, 9, 0], (1,)), ([1], (0,)), ([0], (0,)))
WAYS = ("plain", "bfloat16", "huge", "zero rows", "rank one")


def changed(tokens, way):
    """The same tokens with other numbers as evidence."""
    g = torch.Generator().manual_seed(9)

    def change(kind, value):
        if not isinstance(value, torch.Tensor) or kind in (Evidence.GRID, Evidence.SIZES):
            return value
        if way == "bfloat16":
            return value.bfloat16()
        if way == "huge":
            return value * 1e30
        if way == "zero rows":
            return value * (torch.rand(value.shape[:2], generator=g) < 0.6).unsqueeze(-1)
        if way == "rank one":
            return torch.rand(value.shape[:2], generator=g).unsqueeze(-1) * value[:, :1]
        return value

    evidence = {kind: change(kind, value) for kind, value in tokens.evidence.items()}
    return Tokens(tokens.universe, evidence, tokens.keys, tokens.samples)


def batches():
    """Tokens of every kind: of one image, of none, of many empty ones beside one, without text.

    Every day a quarter of them, in which each two of kind, way and counts meet; all at night.
    """
    for number, kind in enumerate(KINDS):
        for turn, way in enumerate(WAYS):
            for place, (counts, text) in enumerate(COUNTS):
                if NIGHTLY or (number + turn + place) % len(COUNTS) == 0:
                    yield changed(sample(counts, kind, number, text=text), way)


def check(strategy):
    """Exactly min(k, n) tokens, none of them padding, and the same for a row alone."""
    for tokens in batches():
        counts = tokens.universe.counts.tolist()
        for k in SIZES:
            mask = select(strategy, tokens, torch.full((len(counts),), k)).mask
            assert mask.sum(dim=1).tolist() == [min(k, n) for n in counts]
            assert not (mask & ~tokens.valid).any()
            for number, n in enumerate(counts):
                alone = select(strategy, row(tokens, number), torch.tensor([k])).mask
                assert torch.equal(alone[0], mask[number, :n])
