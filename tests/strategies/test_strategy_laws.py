"""What every strategy of the package keeps beside the laws of the conformance kit (test_conformance.py)."""

import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import sample

from tokensieve import Evidence, Keep, Scorer, Tokens, select
from tokensieve.testing import generators, laws
from tokensieve.testing.samples import changed
from tokensieve_strategies import GSP, QCSP, STRATEGIES, FastV, Norm, ToMe

INSTANCES = [strategy(**settings) for strategy in STRATEGIES for settings in strategy.examples]

every = pytest.mark.parametrize("strategy", INSTANCES, ids=repr)


def chosen(strategy, tokens, k):
    return select(strategy, tokens, torch.full((tokens.universe.rows,), k)).mask


@every
@settings(deadline=None, max_examples=examples(40))
@given(tokens=generators.samples(), k=st.integers(0, 13))
def test_the_laws_hold_on_more_samples_than_the_kit_has(strategy, tokens, k):
    laws.exact(strategy, tokens, k)
    laws.padding_free(strategy, tokens, k)
    laws.batch_free(strategy, tokens, k)
    laws.depth_free(strategy, tokens, k)
    laws.nested(strategy, tokens)


@every
@settings(deadline=None, max_examples=examples(40))
@given(tokens=generators.samples(), k=st.integers(0, 13))
def test_bfloat16_is_read_as_what_it_says(strategy, tokens, k):
    """The kit forgives scores that tie in half precision; ours are computed in float64."""
    narrow = changed(tokens, torch.Tensor.bfloat16)
    assert torch.equal(chosen(strategy, narrow, k), chosen(strategy, changed(narrow, torch.Tensor.float), k))


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


# These do not judge by what tokens look like, or tell equal tokens apart by their place.
BY_PLACE = ("random", "uniform", "tome", "replay", "pool", "holov", "hiprune", "visionzip", "vispruner")


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
    # What has another set for every budget joins with a size.
    strategy = strategy if strategy.is_nested else strategy[5]
    for expression in (
        strategy & other,
        strategy | other,
        ~strategy,
        strategy - other,
        strategy ^ other,
        strategy[5] >> other,
    ):
        assert select(expression, tokens, Keep.of(4)).mask.sum(dim=1).tolist() == [4, 4, 0]
