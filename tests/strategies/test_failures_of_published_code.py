"""What was found wrong in code that others published, each as a test that such code would fail."""

from dataclasses import replace

import pytest
import torch
from samples import sample

import tokensieve as ts
from tokensieve import Evidence, Query, Tokens, select
from tokensieve_strategies import CDPP, CLS, QCSP, STRATEGIES, TRIM, FastV, Feather, SparseVLM

INSTANCES = [
    strategy(**settings)
    for strategy in STRATEGIES
    for settings in strategy.examples
    if not issubclass(strategy, ts.Chooser)
]
every = pytest.mark.parametrize("strategy", INSTANCES, ids=repr)


def kept(strategy, tokens, k):
    mask = select(strategy, tokens, torch.full((tokens.universe.rows,), k)).mask
    return [row.nonzero().flatten().tolist() for row in mask]


def attended(token, n=12):
    """Tokens of which one has all attention, by every kind of it."""
    tokens = sample([n], text=(2,))
    one = torch.full((1, n, 2), 0.01)
    one[0, token] = 0.9
    words = tokens.decoder_text
    # Both words look at the picture, the first more than the second; so both or one of them rate.
    words = replace(words, attention=one.clone())
    kinds = (Evidence.VISION_ATTENTION, Evidence.DECODER_ATTENTION, Evidence.DECODER_CONTENT)
    evidence = {**tokens.evidence, **dict.fromkeys(kinds, one), Evidence.DECODER_TEXT: words}
    return Tokens(tokens.universe, evidence)


@pytest.mark.parametrize("strategy", [CLS(), FastV(), Feather(), SparseVLM()], ids=repr)
def test_inverted_sign_what_is_looked_at_most_stays_first(strategy):
    """A port of FitPrune sorts ascending and keeps the least attended tokens."""
    for token in (0, 5, 11):
        assert kept(strategy, attended(token), 1) == [[token]]


@pytest.mark.parametrize("strategy", [TRIM(), QCSP(), CDPP()], ids=repr)
@pytest.mark.parametrize("sign", [1, -1])
def test_inverted_sign_relevance_turns_with_the_checkpoint_and_with_nothing_else(strategy, sign):
    """Released code of one paper has relevance negated in one file and not in the next."""
    patch = torch.eye(6)[None]
    text = sign * patch[:, 3:4]
    query = Query(patch, text, torch.ones(1, 1, dtype=torch.bool), "test", sign)
    tokens = Tokens.of(torch.eye(6)[None], query=query)
    assert kept(strategy, tokens, 1) == [[3]]


@every
def test_budget_drift_every_count_is_met(strategy):
    """Rounding per pivot, per run or by an outlier's share keeps a few more or fewer than was asked."""
    tokens = sample([23, 7, 0, 1], seed=4)
    for k in (*range(8), 11, 22, 23, 24):
        assert [len(ids) for ids in kept(strategy, tokens, k)] == [min(k, n) for n in (23, 7, 0, 1)]


@every
@pytest.mark.parametrize("kind", ["duplicates", "equal", "zeros"])
def test_duplicate_picks_repeated_vectors_are_picked_once_each(strategy, kind):
    """Max-min loops that do not mark what they took give 277 distinct tokens where 403 were asked."""
    tokens = sample([40], kind=kind, seed=2)
    for k in (30, 39, 40):
        (ids,) = kept(strategy, tokens, k)
        assert len(set(ids)) == k


@pytest.mark.parametrize("strategy", [QCSP(), CDPP(), CDPP(theta=0.5)], ids=repr)
def test_nan_after_rank_exhaustion_more_tokens_than_dimensions(strategy):
    """Greedy MAP without a guard takes the root of a negative residual, and then repeats one token."""
    tokens = sample([64], kind="low rank", seed=3)
    chosen = select(strategy, tokens, torch.tensor([50]))
    assert int(chosen.mask.sum()) == 50
    assert any("filled by relevance" in note for note in chosen.notes)
    assert kept(strategy, tokens, 50) == kept(strategy, tokens, 50)


@pytest.mark.parametrize("strategy", [TRIM(), QCSP(), CDPP(), CDPP(theta=0.5), CLS()], ids=repr)
def test_joint_min_max_over_the_batch_a_neighbour_changes_nothing(strategy):
    """Relevance scaled by the least and the most relevant token of the whole batch depends on its neighbours."""
    tokens = sample([20, 20], seed=6)
    (alone, _) = kept(strategy, tokens, 6)
    loud = {}
    for kind, value in tokens.evidence.items():
        if isinstance(value, Query):
            patch = value.patch.clone()
            # All of the neighbour's patches are nearly the question itself.
            patch[1] = value.text[1, :1] + 0.01 * patch[1]
            value = Query(patch, value.text, value.mask, value.space, value.sign)
        elif kind is Evidence.VISION_ATTENTION:
            value = torch.cat([value[:1], 1000 * value[1:]])
        loud[kind] = value
    assert kept(strategy, Tokens(tokens.universe, loud), 6)[0] == alone


@pytest.mark.parametrize("recipe", ["fastv", "visionzip", "script", "vispruner"])
@torch.no_grad()
def test_unsorted_indices_tokens_stay_in_the_order_of_the_picture(recipe):
    """Kept indices in the order of their scores shuffle the picture under a causal mask."""
    from tokensieve_adapters.llava import LlavaAdapter

    torch.manual_seed(0)
    model, seen = LlavaAdapter.tiny(), []
    hook = model.model.language_model.layers[-1].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["position_ids"]), with_kwargs=True
    )
    ids = torch.tensor([[1, *[63] * 36, 5, 6]])
    with ts.prune(model, recipe, keep=7) as run:
        model(input_ids=ids, pixel_values=torch.randn(1, 3, 48, 48))
    hook.remove()
    (stays,) = run.kept(run.recipe.stages[-1].at)
    assert stays.tolist() == sorted(set(stays.tolist()))
    positions = [0, *(1 + i for i in stays.tolist()), 37, 38]
    assert seen[0][0].tolist() == positions


def test_degenerate_fill_both_operands_of_script_matter():
    """Filling the intersection of two sets of k from one of them gives that one: released code of Script is QCSP."""
    tokens = sample([60], seed=8)
    script = ts.Recipe.load("script").stages[0].select
    head = ts.Recipe.load("script-head").stages[0]
    graph, query = script.parts
    for k in (6, 15, 30):
        assert kept(script, tokens, k) not in (kept(graph, tokens, k), kept(query, tokens, k))
    assert any("collapses" in finding.message for finding in ts.review(ts.Recipe(stages=(head,))))
