"""Large groups are ranked in float32: every pick is the best one up to near-ties, and copies still go by id."""

from itertools import pairwise

import pytest
import torch
from samples import sample

from tokensieve import Tokens, select
from tokensieve.measure import count_operators
from tokensieve.testing.samples import vectors
from tokensieve_strategies import CDPP, GSP, QCSP, DivPrune, MMTok
from tokensieve_strategies._maths import dpp, maxmin
from tokensieve_strategies._maths.bipartite import bipartite_edges
from tokensieve_strategies._maths.matching import merge_down
from tokensieve_strategies._maths.vectors import SMALL, in_float32, normalize, unit_float32

N, D = 300, 320
NEAR = 1e-5
CPU = torch.device("cpu")


def generator(seed):
    return torch.Generator().manual_seed(seed)


def features(kind, seed=0, n=N, d=D):
    if kind == "clusters":
        # 30 directions with a small spread: what remains of a token after its neighbours is little.
        g = generator(seed)
        few = torch.randn(30, d, generator=g)[torch.arange(n) % 30]
        return few + 0.05 * torch.randn(n, d, generator=g)
    return vectors(kind, (n, d), generator(seed))


KINDS = ("normal", "integers", "duplicates", "low rank", "equal", "zeros", "clusters")


def test_the_inputs_are_large_enough():
    assert in_float32(N, D, CPU)
    assert not in_float32(int((SMALL / D) ** 0.5), D, CPU)


def shortfall(kernel, picks):
    """By which part of the best gain a pick falls short, at most, in float64. Picks without a gain are passed over."""
    gain, factor, worst = kernel.diagonal().clone(), [], 0.0
    least = 1e-9 * gain.max()
    left = torch.ones(len(gain), dtype=torch.bool)
    for pick in picks:
        best = gain[left].max()
        if best <= least:
            break
        worst = max(worst, float(1 - gain[pick] / best))
        row = kernel[pick] - sum((f[pick] * f for f in factor), torch.zeros_like(gain))
        factor.append(row / gain[pick].sqrt())
        gain = (gain - factor[-1].square()).clamp(min=0)
        left[pick] = False
    return worst


@pytest.mark.parametrize("kind", KINDS)
def test_every_pick_of_greedy_map_is_the_best_one(kind):
    x, quality = features(kind), torch.rand(N, generator=generator(1)) + 1e-3
    picks = dpp.greedy_map(x.unsqueeze(0), quality.unsqueeze(0), torch.ones(1, N, dtype=torch.bool), 120)
    places = picks.places[0].tolist()
    assert len(set(places)) == 120
    unit = normalize(x)
    kernel = quality.double().unsqueeze(1) * (unit @ unit.T) * quality.double()
    assert shortfall(kernel, places) < NEAR
    exact = dpp._Exact(x.unsqueeze(0), quality.unsqueeze(0), torch.ones(1, N, dtype=torch.bool)).to(120)
    assert picks.rank.tolist() == exact.rank.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_every_pick_of_max_min_is_the_farthest(kind):
    x = features(kind)
    picks = maxmin.CosineMaxMin(x.unsqueeze(0), torch.ones(1, N, dtype=torch.bool), full=True).to(150)[0][0].tolist()
    assert len(set(picks)) == 150
    unit = normalize(x)
    apart = 1 - unit @ unit.T
    lonely = apart.clone().fill_diagonal_(torch.inf).amin(dim=1)
    assert lonely[picks[0]] >= lonely.max() - 2e-6
    nearest = apart[picks[0]].clone()
    left = torch.ones(N, dtype=torch.bool)
    for before, pick in pairwise(picks):
        left[before] = False
        assert nearest[pick] >= nearest[left].max() - 2e-6
        nearest = torch.minimum(nearest, apart[pick])


@pytest.mark.parametrize("kind", ["normal", "clusters", "low rank"])
def test_what_float32_cannot_tell_apart_is_left_to_float64(kind):
    x, valid = features(kind).unsqueeze(0), torch.ones(1, N, dtype=torch.bool)
    quality = 0.5 + torch.rand(1, N, generator=generator(1)) / 2
    greedy, spread = dpp.GreedyMap(x, quality, valid), maxmin.CosineMaxMin(x, valid, full=True)
    picks, places = greedy.to(150), spread.to(150)[0]
    expected = set() if kind == "normal" else {0}
    assert greedy._slow == spread._slow == expected
    assert picks.rank.item() == (2 if kind == "low rank" else 150)
    # The two loops agree, because no pick of these is near a tie.
    assert torch.equal(picks.places, dpp._Exact(x, quality, valid).to(150).places)
    assert torch.equal(places, maxmin._exact(x, valid).to(150))


def test_an_exhausted_rank_ends_the_loop():
    x = features("low rank").unsqueeze(0)
    greedy = dpp.GreedyMap(x, torch.rand(1, N, generator=generator(1)), torch.ones(1, N, dtype=torch.bool))
    with count_operators() as counts:
        picks = greedy.to(280)
    assert picks.rank.tolist() == [2]
    assert sorted(picks.places[0].tolist()) == sorted(set(picks.places[0].tolist()))
    # 280 picks in float32, and in float64 those up to the first time that the host asks.
    assert counts.by_name["sqrt"] <= 64
    assert greedy.to(290).places[:, :280].equal(picks.places)


@pytest.mark.parametrize("kind", ["normal", "clusters"])
@pytest.mark.parametrize("steps", [(1, 2, 90), (31, 32, 33, 64, 90), (90, 40)])
def test_going_on_is_going_at_once(kind, steps):
    x, quality = torch.stack([features(kind), features("normal", 5)]), torch.rand(2, N, generator=generator(2))
    valid = torch.ones(2, N, dtype=torch.bool)
    valid[1, 200:] = False
    at_once = dpp.GreedyMap(x, quality, valid).to(90), maxmin.CosineMaxMin(x, valid, full=False).to(90)[0]
    greedy, spread = dpp.GreedyMap(x, quality, valid), maxmin.CosineMaxMin(x, valid, full=False)
    for depth in steps:
        picks, places = greedy.to(depth), spread.to(depth)[0]
        assert torch.equal(picks.places, at_once[0].places[:, :depth])
        torch.testing.assert_close(picks.gains, at_once[0].gains[:, :depth], rtol=1e-6, atol=0)
        assert torch.equal(places, at_once[1][:, :depth])


@pytest.mark.parametrize("module", [dpp, maxmin])
def test_similarities_on_demand_are_those_that_are_stored(monkeypatch, module):
    x, quality, valid = features("normal").unsqueeze(0), torch.ones(1, N), torch.ones(1, N, dtype=torch.bool)

    def picks():
        return maxmin.CosineMaxMin(x, valid, full=True).to(60)[0], dpp.GreedyMap(x, quality, valid).to(60).places

    stored = picks()
    monkeypatch.setattr(maxmin, "WHOLE", N * N - 1)
    monkeypatch.setattr("tokensieve_strategies._maths.dpp_float32.WHOLE", N * N - 1)
    assert all(torch.equal(one, other) for one, other in zip(stored, picks(), strict=True))


def test_rows_that_do_not_fit_together_are_picked_one_after_the_other(monkeypatch):
    x, quality = torch.stack([features("normal", seed) for seed in range(3)]), torch.rand(3, N, generator=generator(0))
    valid = torch.ones(3, N, dtype=torch.bool)
    together = dpp.GreedyMap(x, quality, valid).to(70).places, maxmin.CosineMaxMin(x, valid, full=True).to(70)[0]
    monkeypatch.setattr(maxmin, "WHOLE", 2 * N * N)
    monkeypatch.setattr(dpp, "WHOLE", 2 * N * N)
    greedy, spread = dpp.GreedyMap(x, quality, valid), maxmin.CosineMaxMin(x, valid, full=True)
    assert len(greedy._quick) == len(spread._quick) == 2
    greedy.to(30), spread.to(30)
    assert torch.equal(greedy.to(70).places, together[0])
    assert torch.equal(spread.to(70)[0], together[1])


STRATEGIES = [GSP(), GSP(quantile=0.9), DivPrune(), QCSP(), CDPP(theta=0.5), GSP() & QCSP(), DivPrune() & QCSP()]


def large(counts, kind="normal", seed=0):
    return sample(counts, kind, seed, d=D, text=(2, 3, 0))


def chosen(strategy, tokens, k):
    return select(strategy, tokens, torch.full((tokens.universe.rows,), k)).mask


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_batch_padding_memory_order_and_autocast_change_nothing(strategy):
    tokens = large([N, 260, 0])
    mask = chosen(strategy, tokens, 40)
    assert mask.sum(dim=1).tolist() == [40, 40, 0]
    order = torch.randperm(N, generator=generator(3)).expand(3, -1)
    moved = chosen(strategy, tokens.take(order, torch.ones_like(tokens.valid)), 40)
    assert torch.equal(torch.zeros_like(mask).scatter_(1, order, moved), mask)
    for row, n in enumerate((N, 260)):
        places = torch.arange(n).unsqueeze(0)
        alone = tokens.take(places, torch.ones(1, n, dtype=torch.bool), torch.tensor([row]))
        assert torch.equal(chosen(strategy, alone, 40)[0], mask[row, :n])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(chosen(strategy, tokens, 40), mask)


@pytest.mark.parametrize("strategy", STRATEGIES[:5], ids=str)
def test_copies_go_by_id(strategy):
    """Every vector four times, so that two copies are on each side of GSP's graph; the query's too."""
    tokens = large([N])
    for value in (tokens.features, tokens.query.patch):
        value[:] = value[:, torch.arange(N) % (N // 4)].clone()
    place = strategy.judge(tokens, N).level[0].reshape(4, N // 4)
    step = 2 if strategy.name == "gsp" else 1
    assert (place[:-step] < place[step:]).all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("strategy", STRATEGIES[:4], ids=str)
def test_lengths_do_not_matter(strategy, scale):
    tokens = large([N], seed=4)
    expected = chosen(strategy, tokens, 50)
    tokens.features[:] *= scale
    assert torch.equal(chosen(strategy, tokens, 50), expected)


def test_products_that_torch_may_round_are_not_taken():
    torch.set_float32_matmul_precision("medium")
    try:
        assert not in_float32(N, D, torch.device("cuda"))
    finally:
        torch.set_float32_matmul_precision("highest")
    assert in_float32(N, D, CPU)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("tau", "quantile"), [(None, 0.5), (None, 0.83), (None, 1.0), (0.05, 0.5)])
def test_edges_are_those_of_a_dense_graph(kind, tau, quantile):
    x = features(kind)
    edges = bipartite_edges(x, tau, quantile, 1e-6)
    unit = normalize(x)
    similar = (unit @ unit.T)[0::2, 1::2]
    threshold = tau if tau is not None else float(similar.flatten().quantile(quantile))
    clear = (similar - threshold + 1e-6).abs() > 5e-7
    edge = similar >= threshold - 1e-6
    for side, across in ((0, 1), (1, 0)):
        # Edges whose cosine is the threshold up to rounding may be there or not.
        doubtful = (~clear).sum(dim=across)
        degree = edge.sum(dim=across)
        assert ((edges.degree[side::2] - degree).abs() <= doubtful).all()
        excess = ((similar - threshold) * edge).sum(dim=across) / degree.clamp(min=1)
        sure = doubtful == 0
        torch.testing.assert_close(edges.excess[side::2][sure], excess[sure], rtol=0, atol=4e-6)
        torch.testing.assert_close(edges.mean[side::2], similar.mean(dim=across), rtol=0, atol=1e-6)


def test_unit_vectors_are_right_down_to_the_smallest_numbers():
    x = torch.randn(6, 50, generator=generator(0))
    for scale in (1e-44, 1e-38, 1e-20, 1.0, 1e20, 3e37):
        wide = (x * scale).double()
        expected = wide / wide.norm(dim=-1, keepdim=True)
        torch.testing.assert_close(unit_float32(x * scale).double(), expected, rtol=0, atol=2e-7)
    assert not unit_float32(torch.zeros(2, 3)).any()
    assert unit_float32(torch.zeros(2, 0)).shape == (2, 0)


def test_a_bad_vector_in_a_large_group_is_refused():
    tokens = large([N])
    for strategy in STRATEGIES[:4]:
        bad = Tokens(tokens.universe, dict(tokens.evidence), tokens.keys, tokens.samples)
        bad.evidence["features"] = tokens.features.clone().index_fill_(1, torch.tensor([7]), torch.nan)
        with pytest.raises(Exception, match=rf"{strategy.name}: the features hold NaN"):
            chosen(strategy, bad, 5)


@pytest.mark.parametrize("kind", ["normal", "duplicates", "equal", "zeros"])
@pytest.mark.parametrize("keep", [1, 40, 150, 299])
def test_merging_in_float32_is_merging_in_float64(monkeypatch, kind, keep):
    x, sizes = features(kind).unsqueeze(0) * 1e30, torch.randint(1, 4, (1, N), generator=generator(0))
    quick = merge_down(x, sizes, keep)
    monkeypatch.setattr("tokensieve_strategies._maths.matching.in_float32", lambda n, d, device: False)
    slow = merge_down(x, sizes, keep)
    assert torch.equal(quick.owner, slow.owner)
    assert torch.equal(quick.remaining, slow.remaining)
    assert quick.removed.sort().values.tolist() == slow.removed.sort().values.tolist()
    # Two proposals of random vectors may be near-ties, those of copies are ties.
    assert kind == "normal" or torch.equal(quick.removed, slow.removed)


def test_merging_a_row_in_a_batch_is_merging_it_alone():
    x, sizes = torch.stack([features("normal", seed) for seed in range(3)]), torch.ones(3, N)
    together = merge_down(x, sizes, 50)
    for row in range(3):
        alone = merge_down(x[row : row + 1], sizes[:1], 50)
        assert torch.equal(alone.owner[0], together.owner[row])
        assert torch.equal(alone.removed[0], together.removed[row])


@pytest.mark.parametrize("kind", ["normal", "duplicates", "clusters"])
def test_every_pick_of_coverage_is_the_best_one(kind):
    tokens = large([N])
    tokens.evidence["vision_features"] = features(kind, 7).unsqueeze(0)
    picks = MMTok().judge(tokens, 60).queue()[0, :60].tolist()
    text = tokens.text_features
    own, words = normalize(tokens.vision_features[0]), normalize(text.features[0][text.mask[0]])
    picture = (own @ own.T / 0.2).softmax(dim=1) * 0.5 / N
    question = (words @ normalize(tokens.features[0]).T / 0.02).softmax(dim=1) / len(words)
    cover = torch.cat([picture, question])
    best = torch.zeros(len(cover), 1, dtype=torch.float64)
    for turn, pick in enumerate(picks):
        gain = (cover - best).clamp(min=0).sum(dim=0)
        # Where all is covered but for rounding, the order is that of places.
        assert gain[pick] >= gain.max() * (1 - NEAR) or gain.max() < 1e-6, turn
        best = torch.maximum(best, cover[:, pick : pick + 1])
