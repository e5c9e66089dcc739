"""Worked examples with their numbers, computed in float64 before the code was written."""

import pytest
import torch

from tokensieve import Evidence, Keep, Query, Scorer, Tokens, Universe, select
from tokensieve_strategies import GSP, QCSP
from tokensieve_strategies._maths.dpp import greedy_map
from tokensieve_strategies._maths.maxmin import max_min, most_isolated
from tokensieve_strategies._maths.vectors import normalize, round_for_ties

X = torch.tensor(
    [[4, 1, 0], [4, 1, 1], [0, 3, 1], [4, 0, 0], [0, 3, 2], [1, 1, 4], [0, 4, 1], [3, 2, 2]],
    dtype=torch.float32,
)
R = torch.tensor([0.9, 0.3, 0.8, 0.5, 0.2, 1.0, 0.6, 0.4])
GRAPH_ORDER = [6, 2, 5, 3, 1, 4, 7, 0]
RELEVANCE_ORDER = [5, 0, 2, 6, 3, 7, 1, 4]

graph = GSP(tau=0.6)


class Relevance(Scorer):
    name = "relevance"

    @property
    def needs(self):
        return frozenset({Evidence.FEATURES})

    def score(self, tokens):
        return R.expand(tokens.valid.shape)


relevant = Relevance()


def everything():
    return Tokens.of(X.unsqueeze(0))


def kept(expression, k, by=None):
    return set(select(expression, everything(), Keep.of(k), by).mask[0].nonzero().flatten().tolist())


def whole():
    return torch.ones(1, 8, dtype=torch.bool)


def test_gsp_redundancy_and_order():
    redundancy = graph.redundancy(X)
    # Token 6 has no edge: half of its mean similarity to 1, 3, 5 and 7, which is (.2858 + 0 + .4573 + .5882) / 4.
    expected = [4.1390, 1.4504, 1.0137, 1.4479, 2.2013, 1.1265, 0.1664, 3.3263]
    assert redundancy.tolist() == pytest.approx(expected, abs=5e-5)
    assert graph.judge(everything(), 8).queue()[0].tolist() == GRAPH_ORDER


def test_gsp_degrees():
    # Without the strength of the edges, redundancy is the degree.
    assert GSP(tau=0.6, gamma=0.0).redundancy(X).tolist() == [3, 1, 1, 1, 2, 1, pytest.approx(0.1664, abs=5e-5), 3]


def test_greedy_map_picks_gains_and_exhausted_rank():
    picks = greedy_map(X.unsqueeze(0), R.unsqueeze(0), whole(), 8)
    assert picks.gains[0, :3].tolist() == pytest.approx([1.0, 0.7438, 0.4612], abs=5e-5)
    assert picks.rank.tolist() == [3]
    # Then by relevance.
    assert picks.places[0].tolist() == [5, 0, 2, 6, 3, 7, 1, 4]
    assert picks.gains[0, 3:].tolist() == [0] * 5


def test_greedy_map_without_relevance():
    # All first gains are 1. The published order begins with place 1, whose float64 norm happens to
    # exceed 1 by one rounding; a hair of quality says the same aloud.
    hair = torch.ones(1, 8)
    hair[0, 1] += 1e-6
    picks = greedy_map(X.unsqueeze(0), hair, whole(), 3)
    assert picks.places[0].tolist() == [1, 6, 5]
    assert picks.gains[0].tolist() == pytest.approx([1.0, 0.9183, 0.6423], abs=5e-5)
    # A tie breaks by id.
    picks = greedy_map(X.unsqueeze(0), torch.ones(1, 8), whole(), 3)
    assert picks.places[0].tolist() == [0, 4, 5]
    assert picks.gains[0].tolist() == pytest.approx([1.0, 0.9593, 0.4623], abs=5e-5)


def test_qcsp_reaches_the_same_rank():
    # One text along the first axis, so that the cosine of each patch is the relevance wanted.
    patch = torch.stack([R, (1 - R**2).clamp(min=0).sqrt()], dim=1).unsqueeze(0)
    query = Query(patch, torch.tensor([[[1.0, 0.0]]]), torch.ones(1, 1, dtype=torch.bool), "test")
    tokens = Tokens.of(X.unsqueeze(0), query=query)
    chosen = select(QCSP(), tokens, Keep.of(5))
    assert chosen.notes == ("qcsp: rank 3 reached in row 0; 2 places filled by relevance",)
    assert int(chosen.mask.sum()) == 5


def test_max_min_order():
    direction = normalize(X.unsqueeze(0))

    def distance(places):
        picked = direction.gather(1, places.unsqueeze(-1).expand(-1, -1, 3))
        return round_for_ties(1 - picked @ direction.mT)

    first = most_isolated(distance, whole())
    assert first.tolist() == [5]
    assert max_min(distance, whole(), first, 5)[0].tolist() == [5, 3, 6, 7, 4]


def test_the_orders_of_both_operands():
    assert relevant.judge(everything(), 8).queue()[0].tolist() == RELEVANCE_ORDER
    for k in range(1, 9):
        assert kept(graph, k) == set(GRAPH_ORDER[:k])
        assert kept(relevant, k) == set(RELEVANCE_ORDER[:k])


@pytest.mark.parametrize(
    ("k", "both", "either", "raw_both"),
    [
        (2, {2, 5}, {5, 6}, set()),
        (3, {2, 5, 6}, {0, 5, 6}, {2, 5}),
        (4, {2, 3, 5, 6}, {0, 2, 5, 6}, {2, 5, 6}),
    ],
)
def test_deep_intersection_and_union(k, both, either, raw_both):
    assert kept(graph, k) & kept(relevant, k) == raw_both
    assert kept(graph & relevant, k, by=graph) == both
    assert kept(graph | relevant, k, by=relevant) == either
    # The intersection of two fixed sets, filled in one operand's order, is that operand.
    assert kept(graph[k] & relevant[k], k, by=relevant) == kept(relevant, k)


def test_an_empty_universe_has_no_order():
    none = Tokens.of(torch.zeros(2, 0, 3), Universe.full(2, 0))
    assert select(graph, none, Keep.of(4)).mask.shape == (2, 0)
