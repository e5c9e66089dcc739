"""FastV, Norm, Random and Uniform."""

import loops
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, sample

from tokensieve import Evidence, Keep, Tokens, Universe, select
from tokensieve.errors import ScoreError, SettingError
from tokensieve_strategies import FastV, Norm, Random, Uniform
from tokensieve_strategies._maths.maxmin import max_min, most_isolated


def order(strategy, tokens, row=0):
    return strategy.judge(tokens, tokens.universe.n).queue()[row, : int(tokens.universe.counts[row])].tolist()


def test_fastv_is_the_mean_over_heads():
    tokens = sample([30, 11])
    for row, n in enumerate((30, 11)):
        means = [sum(heads) / len(heads) for heads in tokens.decoder_attention[row, :n].tolist()]
        assert order(FastV(), tokens, row) == loops.falling(means)
    assert FastV().needs == {Evidence.DECODER_ATTENTION}


def test_fastv_adds_heads_without_rounding():
    # In bfloat16, 256 + 1 is 256.
    heads = torch.tensor([[[256.0, 0.0], [256.0, 1.0]]], dtype=torch.bfloat16)
    tokens = Tokens(Universe.full(1, 2), {Evidence.DECODER_ATTENTION: heads})
    assert order(FastV(), tokens) == [1, 0]


@pytest.mark.parametrize("p", [0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("kind", KINDS)
def test_norm_is_the_formula(p, kind):
    tokens = sample([15], kind)
    norms = [sum(abs(v) ** p for v in x) ** (1 / p) for x in tokens.features[0].tolist()]
    assert order(Norm(p=p), tokens) == loops.falling(norms)


@pytest.mark.parametrize("p", [0.0, -1.0, float("nan"), float("inf")])
def test_norm_checks_its_setting(p):
    with pytest.raises(SettingError):
        Norm(p=p)


def test_norm_of_huge_and_bad_vectors():
    tokens = sample([3])
    tokens.features[0] = torch.tensor([1e38, 2e38, 3e38]).unsqueeze(1)
    assert order(Norm(), tokens) == [2, 1, 0]
    tokens.features[0, 1, 0] = torch.nan
    with pytest.raises(ScoreError):
        order(Norm(), tokens)


def test_random_needs_nothing_and_knows_no_batch():
    assert Random().needs == frozenset()
    # The same samples, tokens and seed in another batch, padded otherwise.
    ids = torch.arange(12).expand(2, 12).contiguous()
    valid = ids < torch.tensor([[12], [5]])
    together = Tokens(Universe(valid, ids), {}, torch.tensor([3, 9]))
    alone = Tokens(Universe.full(1, 5), {}, torch.tensor([9]))
    assert order(Random(), together, 1) == order(Random(), alone)
    # Of a pruned row, what remains keeps its order.
    fewer = Tokens(Universe(torch.ones(1, 3, dtype=torch.bool), torch.tensor([[1, 2, 4]])), {}, torch.tensor([9]))
    kept = [(1, 2, 4)[place] for place in order(Random(), fewer)]
    assert kept == [place for place in order(Random(), alone) if place in (1, 2, 4)]


def test_random_differs_by_seed_and_sample_and_is_fair():
    ids = torch.arange(50).expand(2, 50).contiguous()
    tokens = Tokens(Universe(torch.ones(2, 50, dtype=torch.bool), ids), {}, torch.tensor([0, 1]))
    orders = {tuple(order(Random(seed=seed), tokens, row)) for seed in (-1, 0, 1, 2**70 + 2) for row in (0, 1)}
    assert len(orders) == 8
    many = Tokens(
        Universe(torch.ones(4000, 10, dtype=torch.bool), torch.arange(10).repeat(4000, 1)), {}, torch.arange(4000)
    )
    often = select(Random(), many, Keep.of(3)).mask.double().mean(dim=0)
    assert ((often - 0.3).abs() < 0.03).all()


def grid(cells):
    """Tokens at `cells`, each (image, tile, frame, row, column)."""
    at = torch.tensor(cells, dtype=torch.int64).reshape(1, -1, 5)
    return Tokens(Universe.full(1, at.shape[1]), {Evidence.GRID: at})


def picture(height, width):
    return grid([(0, 0, 0, r, c) for r in range(height) for c in range(width)])


@given(
    cells=st.lists(
        st.tuples(*[st.integers(0, 1)] * 2, st.integers(0, 2), st.integers(0, 5), st.integers(0, 3)),
        max_size=14,
        unique=True,
    )
)
@settings(deadline=None, max_examples=examples(80))
def test_uniform_is_max_min(cells):
    tokens = grid(cells)
    extents = [max([c[a] for c in cells], default=0) - min([c[a] for c in cells], default=0) for a in range(5)]
    unit = [max(1, e) for e in extents[:3]] + [max(1, *extents[3:])] * 2
    middle = [(max(c[a] for c in cells) + min(c[a] for c in cells)) / 2 for a in range(5)] if cells else []

    def apart(a, b):
        return sum(((v - w) / u) ** 2 for v, w, u in zip(a, b, unit, strict=True))

    distance = [[apart(a, b) for b in cells] for a in cells]
    first = loops.first_best([-apart(c, middle) for c in cells], range(len(cells))) if cells else None
    assert order(Uniform(), tokens) == loops.max_min(distance, len(cells), first)


def test_uniform_begins_in_the_middle_and_goes_to_the_corners():
    assert order(Uniform(), picture(5, 5))[:5] == [12, 0, 4, 20, 24]


@pytest.mark.parametrize("k", [16, 36, 64, 100])
def test_uniform_leaves_no_hole(k):
    mask = select(Uniform(), picture(24, 24), Keep.of(k)).mask[0].reshape(24, 24)
    kept = mask.nonzero().double()
    cells = torch.ones(24, 24).nonzero().double()
    hole = torch.cdist(cells, kept).amin(dim=1).max()
    between = torch.cdist(kept, kept).fill_diagonal_(torch.inf).min()
    # k squares of equal size have the side 24 / sqrt(k); greedy max-min is within twice the best.
    assert hole <= 24 / k**0.5
    assert between >= 0.5 * 24 / k**0.5


def test_uniform_passes_over_no_frame_and_no_tile():
    cells = [(0, tile, frame, r, c) for tile in range(2) for frame in range(4) for r in range(4) for c in range(4)]
    mask = select(Uniform(), grid(cells), Keep.of(32)).mask[0]
    chosen = [cells[place] for place in mask.nonzero().flatten().tolist()]
    assert {cell[1] for cell in chosen} == {0, 1}
    assert {cell[2] for cell in chosen} == {0, 1, 2, 3}


def test_uniform_keeps_the_aspect_ratio():
    # In a long strip, the picks go along it.
    assert sorted(place % 40 for place in order(Uniform(), picture(2, 40))[:3]) == [0, 19, 39]


@given(n=st.integers(1, 12), seed=st.integers(0, 99), extra=st.integers(0, 3))
@settings(deadline=None, max_examples=examples(40))
def test_max_min_begins_with_the_loneliest(n, seed, extra):
    at = torch.randint(0, 4, (1, n + extra, 2), generator=torch.Generator().manual_seed(seed))
    valid = (torch.arange(n + extra) < n).unsqueeze(0)

    def distance(places):
        picked = at.gather(1, places.unsqueeze(-1).expand(-1, -1, 2))
        return (picked.unsqueeze(2) - at.unsqueeze(1)).square().sum(dim=-1)

    matrix = distance(torch.arange(n).unsqueeze(0))[0, :, :n].tolist()
    picks = max_min(distance, valid, most_isolated(distance, valid), n + extra)
    assert picks.tolist() == [loops.max_min(matrix, n) + [-1] * extra]
