"""What every strategy of the package must keep, whatever it judges by."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, row, sample, scrambled

from tokensieve import Evidence, Keep, Scorer, Tokens, select
from tokensieve_strategies import GSP, QCSP, STRATEGIES, FastV, Norm, ToMe

INSTANCES = [strategy(**settings) for strategy in STRATEGIES for settings in strategy.examples]
COUNTS = st.lists(st.integers(0, 11), min_size=1, max_size=3)
TEXT = st.sampled_from([(2,), (0,), (1, 0, 3)])

every = pytest.mark.parametrize("strategy", INSTANCES, ids=repr)


def tried(test):
    given_samples = given(
        counts=COUNTS, kind=st.sampled_from(KINDS), seed=st.integers(0, 999), text=TEXT, k=st.integers(0, 13)
    )
    return every(settings(deadline=None, max_examples=40)(given_samples(test)))


def chosen(strategy, tokens, k):
    return select(strategy, tokens, torch.full((tokens.universe.rows,), k)).mask


def same(evidence, other):
    for kind, value in evidence.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[kind])
        else:
            tensors = {name: part for name, part in vars(value).items() if isinstance(part, torch.Tensor)}
            assert all(torch.equal(part, getattr(other[kind], name)) for name, part in tensors.items())


@tried
def test_exact_nested_and_settled_at_any_depth(strategy, counts, kind, seed, text, k):
    tokens = sample(counts, kind, seed, text=text)
    mask = chosen(strategy, tokens, k)
    assert mask.sum(dim=1).tolist() == [min(k, n) for n in counts]
    assert not (mask & ~tokens.valid).any()
    assert not (mask & ~chosen(strategy, tokens, k + 1)).any()
    # Reading everything at once gives the same.
    assert torch.equal(strategy.judge(tokens, tokens.universe.n).cut(k), mask)
    queue = strategy.judge(tokens, tokens.universe.n).queue()
    assert all(len(set(places[:n])) == n for places, n in zip(queue.tolist(), counts, strict=True))


@tried
def test_a_row_alone_is_the_row_in_a_batch(strategy, counts, kind, seed, text, k):
    tokens = sample(counts, kind, seed, text=text)
    mask = chosen(strategy, tokens, k)
    for number, n in enumerate(counts):
        assert torch.equal(chosen(strategy, row(tokens, number), k)[0], mask[number, :n])


@tried
def test_memory_order_and_padding_do_not_matter(strategy, counts, kind, seed, text, k):
    tokens = sample(counts, kind, seed, text=text)
    moved, went = scrambled(tokens, seed % 4, seed)
    found = chosen(strategy, moved, k).gather(1, went) if went.numel() else went.bool()
    assert torch.equal(found, chosen(strategy, tokens, k))


@tried
def test_judging_is_pure_and_sees_only_what_it_needs(strategy, counts, kind, seed, text, k):
    tokens, untouched = sample(counts, kind, seed, text=text), sample(counts, kind, seed, text=text)
    before = strategy.model_dump()
    mask = chosen(strategy, tokens, k)
    same(tokens.evidence, untouched.evidence)
    assert strategy.model_dump() == before
    assert type(strategy)(**before) == strategy
    assert torch.equal(chosen(strategy, tokens.only(strategy.needs), k), mask)


@tried
def test_bfloat16_is_read_as_what_it_says(strategy, counts, kind, seed, text, k):
    tokens = sample(counts, kind, seed, text=text)

    def cast(dtype):
        evidence = {
            kind: value.bfloat16().to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
            for kind, value in tokens.evidence.items()
        }
        return Tokens(tokens.universe, evidence, tokens.keys, tokens.samples)

    assert torch.equal(chosen(strategy, cast(torch.bfloat16), k), chosen(strategy, cast(torch.float32), k))


@pytest.mark.parametrize(
    "strategy", [GSP(), GSP(tau=0.2), QCSP(), ToMe(), ToMe(metric="keys"), Norm(), FastV()], ids=repr
)
@pytest.mark.parametrize("power", [-100, 100])
def test_huge_and_tiny_norms_change_nothing(strategy, power):
    # Powers of two scale without rounding.
    tokens = sample([20, 13], "normal", 3)
    scaled = {
        kind: value * 2.0**power if isinstance(value, torch.Tensor) and kind is not Evidence.GRID else value
        for kind, value in tokens.evidence.items()
    }
    there = Tokens(tokens.universe, scaled, tokens.keys, tokens.samples)
    for k in range(21):
        assert torch.equal(chosen(strategy, there, k), chosen(strategy, tokens, k))


@every
def test_surroundings_do_not_matter(strategy):
    # 40 tokens of 64 columns, so that a product in bfloat16 would show.
    tokens = sample([40, 31], d=64, seed=5)
    plain = [chosen(strategy, tokens, k) for k in range(0, 41, 5)]

    def again():
        assert all(torch.equal(chosen(strategy, tokens, 5 * turn), mask) for turn, mask in enumerate(plain))

    with torch.autocast("cpu", torch.bfloat16):
        again()
    torch.set_default_dtype(torch.bfloat16)
    try:
        again()
    finally:
        torch.set_default_dtype(torch.float32)
    for value in tokens.evidence.values():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            value.requires_grad_()
    again()


@every
def test_the_smallest_groups(strategy):
    for counts in ([0], [1], [0, 1], [2, 0, 1], [1, 1]):
        tokens = sample(counts)
        for k in range(4):
            assert chosen(strategy, tokens, k).sum(dim=1).tolist() == [min(k, n) for n in counts]
    assert chosen(strategy, sample([]), 2).shape == (0, 0)


# These do not judge by what tokens look like, or tell equal tokens apart by their place.
BY_PLACE = ("random", "uniform", "tome", "replay")


@pytest.mark.parametrize("strategy", [s for s in INSTANCES if s.name not in BY_PLACE], ids=repr)
def test_equal_tokens_stay_in_id_order(strategy):
    tokens = sample([8], "equal", text=(0,))
    tokens.evidence[Evidence.DECODER_ATTENTION][:] = 0.25
    assert strategy.judge(tokens, 8).queue()[0].tolist() == list(range(8))


@pytest.mark.parametrize("strategy", [GSP(), GSP(tau=0.05), QCSP(), Norm()], ids=repr)
@pytest.mark.parametrize("seed", range(6))
def test_copies_are_ties_however_sums_are_rounded(strategy, seed):
    # Vectors 0 to 19 three times over; copies are on one side of a bipartite graph.
    tokens = sample([60], "normal", seed, d=37, text=(3,))
    for value in (tokens.features, tokens.query.patch):
        value[:] = value[:, torch.arange(60) % 20].clone()
    place = strategy.judge(tokens, 60).level[0]
    assert (place[:20] < place[20:40]).all()
    assert (place[20:40] < place[40:]).all()


@pytest.mark.parametrize("strategy", [s for s in INSTANCES if isinstance(s, Scorer)], ids=repr)
def test_scores_are_numbers(strategy):
    tokens = sample([9, 4])
    assert strategy.score(tokens)[tokens.valid].isfinite().all()


@pytest.mark.parametrize("strategy", INSTANCES, ids=repr)
def test_all_strategies_join_by_every_operator(strategy):
    tokens = sample([10, 7, 0])
    other = GSP(quantile=0.7)
    for expression in (
        strategy & other,
        strategy | other,
        ~strategy,
        strategy - other,
        strategy ^ other,
        strategy[5] >> other,
    ):
        assert select(expression, tokens, Keep.of(4)).mask.sum(dim=1).tolist() == [4, 4, 0]
