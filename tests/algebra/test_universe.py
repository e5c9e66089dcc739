"""Universes, random draws, and what chains and reductions refuse."""

from fractions import Fraction

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from tokensieve import Chain, Reduction, Universe
from tokensieve.algebra.chain import at_least, fuse
from tokensieve.algebra.reduction import nearest
from tokensieve.algebra.universe import draw
from tokensieve.errors import AlgebraError
from tokensieve.testing.generators import universes


def test_universes_by_hand():
    universe = Universe.of_counts([2, 0, 3])
    assert universe.counts.tolist() == [2, 0, 3]
    assert universe.valid.tolist() == [[True, True, False], [False] * 3, [True] * 3]
    assert (universe.rows, universe.n) == (3, 3)
    assert Universe.of_counts([]).n == 0
    assert Universe.of_counts([2, 2]).same_tokens(Universe.full(2, 2))
    assert not universe.same_tokens(Universe.of_counts([2, 1, 3]))
    with pytest.raises(AlgebraError, match=r"valid as bool and ids as int64, not torch.int64 and torch.int64"):
        Universe(universe.ids, universe.ids)
    with pytest.raises(AlgebraError, match=r"one shape \[rows, n\], not \[3, 3\] and \[3, 2\]"):
        Universe(universe.valid, universe.ids[:, :2])


@given(universes())
def test_the_order_is_by_id_and_padding_does_not_matter(universe):
    order = universe.order()
    for row, count in enumerate(universe.counts.tolist()):
        places = order[row, :count]
        assert universe.valid[row, places].all()
        assert universe.ids[row, places].tolist() == sorted(universe.ids[row, places].tolist())
    rubbish = torch.where(universe.valid, universe.ids, 99)
    assert universe.same_tokens(Universe(universe.valid, rubbish))
    taken = universe.take(order, torch.ones_like(universe.valid))
    assert torch.equal(taken.counts, universe.counts)


def splitmix(x):
    """The finaliser, from its description, with Python's integers."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> shift)) * factor % 2**64
    return x ^ (x >> 31)


@given(st.integers(-(2**70), 2**70), st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**40))
def test_a_draw_is_a_pure_function_of_seed_key_and_id(seed, key, number):
    golden = 0x9E3779B97F4A7C15
    base = splitmix((splitmix((seed * golden + golden) % 2**64) + key * golden) % 2**64)
    expected = (splitmix((base + (number + 1) * golden) % 2**64) >> 11) / 2**53
    ids = torch.tensor([[number, 0, 1], [number, number, 2]])
    drawn = draw(seed, torch.tensor([key, 0]), ids)
    assert drawn[0, 0] == expected
    assert drawn[1, 0] == drawn[1, 1]
    assert ((drawn >= 0) & (drawn < 1)).all()


def test_draws_look_uniform():
    drawn = draw(0, torch.arange(8), torch.arange(4_000).expand(8, -1))
    assert (drawn.mean(dim=1) - 0.5).abs().max() < 0.02
    assert drawn.flatten().unique().numel() == drawn.numel()


def test_what_chains_cannot_be_joined_is_refused():
    universe = Universe.full(1, 4)
    chain = Chain.from_scores(universe, torch.zeros(1, 4), "a")
    other = Chain.from_scores(Universe.full(1, 3), torch.zeros(1, 3), "b")
    part = Chain.from_picks(universe, torch.tensor([[0, 1]]), "c")
    with pytest.raises(AlgebraError, match="same tokens"):
        at_least(1, [chain, other])
    with pytest.raises(AlgebraError, match="takes 1 to 1 of 1 operands, not 2"):
        at_least(2, [chain])
    with pytest.raises(AlgebraError, match="not all zero"):
        fuse([chain], [Fraction(0)], "f")
    with pytest.raises(AlgebraError, match="not negative"):
        fuse([chain, chain], [Fraction(1), Fraction(-1)], "f")
    with pytest.raises(AlgebraError, match="needs all places"):
        fuse([chain, part], [Fraction(1)] * 2, "f")
    with pytest.raises(AlgebraError, match="too finely graded"):
        fuse([chain, chain], [Fraction(1), Fraction(1, 2**62)], "f")
    with pytest.raises(AlgebraError, match="levels are int64"):
        Chain(universe, torch.zeros(1, 4), 4, ())


def test_what_reductions_cannot_do_is_refused():
    universe = Universe.full(1, 3)
    kept = torch.tensor([[True, False, False]])
    sizes = torch.ones(1, 3)
    with pytest.raises(AlgebraError, match="a kept partner for every token"):
        Reduction.merge(universe, kept, torch.tensor([[0, 0, 1]]), sizes)
    with pytest.raises(AlgebraError, match=r"\[1, 1\] slots cannot be followed by one of \[1, 3\] tokens"):
        Reduction.drop(universe, kept).then(Reduction.identity(universe))


@given(st.integers(0, 6), st.integers(1, 3), st.integers(0, 2**32))
def test_nearest_is_the_most_similar_kept_token(n, block, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-2, 3, (2, n, 2), generator=generator).double()
    kept = torch.rand(2, n, generator=generator) < 0.5
    kept[:, :1] = True
    found = nearest(x, kept, block)
    assert found.shape == (2, n)
    unit = torch.nn.functional.normalize(x.float(), dim=-1)
    for row in range(2):
        for place in range(n):
            if kept[row, place]:
                assert found[row, place] == place
                continue
            similar = {p: float(unit[row, place] @ unit[row, p]) for p in range(n) if kept[row, p]}
            assert kept[row, found[row, place]]
            assert similar[int(found[row, place])] >= max(similar.values()) - 1e-6
