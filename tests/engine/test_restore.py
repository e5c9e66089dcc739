"""A model after a prune is the model before it, whatever happened in between."""

import gc

import pytest
import torch
from transformers.modeling_utils import AttentionInterface

import tokensieve as ts
from tokensieve import Evidence, Scorer
from tokensieve.testing.footprint import footprint
from tokensieve_strategies import FastV, Norm

from .models import CACHE, ONE, RAGGED, batch, generate, llava, prompts, shared


class Failing(Scorer):
    """Gives up."""

    name = "failing"

    def score(self, tokens):
        raise KeyError("the strategy gave up")


class FailingInside(Failing):
    """Gives up after it was given attention."""

    name = "failing_inside"

    @property
    def needs(self):
        return frozenset({Evidence.DECODER_ATTENTION, Evidence.DECODER_KEYS})


def at(*stages):
    return ts.Recipe(stages=tuple(ts.Stage(at=site, select=select, keep=4) for site, select in stages))


RECIPES = {
    "before": at(("decoder.0", Norm())),
    "inside": at(("decoder.2", FastV())),
    "both": at(("decoder.0", Norm()), ("decoder.1", FastV()), ("decoder.3", FastV())),
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("variant", ["sdpa", "eager"])
def test_nothing_is_left_behind(variant, recipe):
    model = shared(variant)
    rows = prompts(model, RAGGED)
    before, words = footprint(model), generate(model, rows)[1]
    with ts.prune(model, RECIPES[recipe]):
        assert footprint(model) != before
        generate(model, rows)
        with torch.no_grad():
            model(**batch(rows))
    assert footprint(model) == before
    assert torch.equal(generate(model, rows)[1], words)


@pytest.mark.parametrize(
    "recipe",
    [
        at(("decoder.0", Failing())),
        at(("decoder.2", FailingInside())),
        at(("decoder.0", Norm()), ("decoder.1", Failing())),
    ],
    ids=["before", "inside", "second"],
)
@pytest.mark.parametrize("call", ["generate", "forward"])
def test_a_strategy_that_fails(recipe, call):
    model = shared("sdpa")
    rows = prompts(model, ONE)
    before, logits = footprint(model), generate(model, rows)[1]
    with pytest.raises(KeyError, match="gave up"), ts.prune(model, recipe):
        generate(model, rows) if call == "generate" else model(**batch(rows))
    assert footprint(model) == before
    assert torch.equal(generate(model, rows)[1], logits)


def test_the_context_goes_on_after_a_failure():
    model = shared("sdpa")
    rows = prompts(model, ONE)
    with ts.prune(model, RECIPES["both"]):
        right = generate(model, rows)[1]
    with ts.prune(model, RECIPES["both"]) as run:
        with pytest.raises(ts.TokensieveError):
            model(**batch(rows) | {"pixel_values": torch.cat([rows[0].pixels] * 2)})
        assert torch.equal(generate(model, rows)[1], right)
    assert len(run.kept("decoder.3")[0]) == 4


def test_an_exception_in_the_block():
    model = shared("sdpa")
    before = footprint(model)

    def work():
        with ts.prune(model, RECIPES["both"]):
            generate(model, prompts(model, ONE))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert footprint(model) == before


@pytest.mark.parametrize("inner", RECIPES)
def test_an_inner_prune_replaces_the_outer_one(inner):
    model = shared("sdpa")
    rows = prompts(model, RAGGED)
    before = footprint(model)
    with ts.prune(model, RECIPES[inner]):
        alone = generate(model, rows)[1]
    with ts.prune(model, RECIPES["both"]) as outer_run:
        outside, outer = footprint(model), generate(model, rows)[1]
        with ts.prune(model, RECIPES[inner]) as run:
            assert torch.equal(generate(model, rows)[1], alone)
        hooks = {name: len(part["hooks"]["_forward_pre_hooks"]) for name, part in outside["modules"].items()}
        now = footprint(model)["modules"]
        assert {name: len(part["hooks"]["_forward_pre_hooks"]) for name, part in now.items()} == hooks
        assert torch.equal(generate(model, rows)[1], outer)
    assert footprint(model) == before
    assert len(outer_run.prefills) == 2
    assert len(run.prefills) == 1


def test_an_inner_prune_that_fails_gives_the_outer_one_back():
    model = shared("sdpa")
    rows = prompts(model, ONE)
    before = footprint(model)
    with ts.prune(model, RECIPES["inside"]):
        outer = generate(model, rows)[1]
        with pytest.raises(KeyError), ts.prune(model, at(("decoder.2", FailingInside()))):
            generate(model, rows)
        with pytest.raises(ts.TokensieveError), ts.prune(model, at(("decoder.99", Norm()))):
            pass
        assert torch.equal(generate(model, rows)[1], outer)
    assert footprint(model) == before


def test_two_models_are_pruned_apart():
    a, b = shared("sdpa"), shared("mha")
    with ts.prune(a, RECIPES["inside"]) as run_a, ts.prune(b, RECIPES["before"]) as run_b:
        generate(a, prompts(a, ONE))
        generate(b, prompts(b, ONE))
    assert [stage.site for stage in run_a.latest.stages] == ["decoder.2"]
    assert [stage.site for stage in run_b.latest.stages] == ["decoder.0"]


def test_the_librarys_registry_is_as_before():
    model = shared("sdpa")
    gc.collect()  # what tests before this one dropped with a tap in it
    before = dict(AttentionInterface._global_mapping)
    with ts.prune(model, RECIPES["both"]):
        inside = set(AttentionInterface._global_mapping) - set(before)
        assert inside
    assert AttentionInterface._global_mapping == before


def test_a_footprint_knows_taps_of_its_own_model_alone():
    model, other = llava(), llava()
    before = footprint(model)
    with ts.prune(other, RECIPES["inside"]):
        assert footprint(model) == before
        with ts.prune(model, RECIPES["inside"]):
            assert footprint(model)["registry"] != before["registry"]
    assert footprint(model) == before


def test_an_instance_attribute_of_the_user_comes_back():
    model = llava(seed=4)
    said = []
    real = model.generate
    model.generate = mine = lambda *args, **kwargs: said.append("mine") or real(*args, **kwargs)
    with ts.prune(model, RECIPES["before"]):
        generate(model, prompts(model, ONE))
    assert said == ["mine"]
    assert model.generate is mine


def test_hooks_of_the_user_stay():
    model = llava(seed=4)
    seen = []
    handle = model.model.language_model.layers[2].register_forward_hook(lambda *_: seen.append(1))
    with ts.prune(model, RECIPES["both"]):
        generate(model, prompts(model, ONE), steps=1)
    assert seen == [1]
    handle.remove()


def test_a_cache_outlives_its_prune():
    model = shared("sdpa")
    rows = prompts(model, ONE)
    with torch.no_grad():
        with ts.prune(model, RECIPES["before"]):
            cache = model(**batch(rows), use_cache=True)[CACHE]
        kind = type(cache)
        cache.reset()
    gc.collect()
    assert kind.__name__ == type(cache).__name__
    assert not hasattr(cache, "tokensieve_state")


def test_a_context_cannot_be_entered_twice():
    model = shared("sdpa")
    pruned = ts.prune(model, RECIPES["before"])
    with pruned:
        pass
    with pytest.raises((RuntimeError, AttributeError, ts.TokensieveError)), pruned:
        pass
