"""Keeping everything changes nothing, to the bit."""

import pytest
import torch

import tokensieve as ts
from tokensieve_strategies import Norm

from .models import CACHE, ONE, RAGGED, SEVERAL, TEXT, batch, generate, prompts, shared

SITES = (
    ["decoder.0"],
    ["decoder.1"],
    ["decoder.3"],
    ["decoder.0", "decoder.2"],
    ["decoder.1", "decoder.2", "decoder.3"],
)


def everything(sites, keep="100%", rest="drop", positions="original"):
    stages = tuple(ts.Stage(at=site, select=Norm(), keep=keep, rest=rest) for site in sites)
    return ts.Recipe(stages=stages, positions=positions)


def same_caches(a, b):
    return all(
        torch.equal(x.keys, y.keys) and torch.equal(x.values, y.values) for x, y in zip(a.layers, b.layers, strict=True)
    )


@pytest.mark.covering(1)
@pytest.mark.parametrize("variant", ["sdpa", "eager", "bfloat16", "float16", "bfloat16 eager"])
@pytest.mark.parametrize("sites", SITES, ids="+".join)
@pytest.mark.parametrize("layouts", [ONE, SEVERAL, TEXT, RAGGED], ids=["one", "several", "text", "ragged"])
@torch.no_grad()
def test_a_forward_that_keeps_all_is_the_plain_one(variant, sites, layouts):
    model = shared(variant)
    inputs = batch(prompts(model, layouts))
    plain = model(**inputs, use_cache=True)
    with ts.prune(model, everything(sites)) as run:
        kept = model(**inputs, use_cache=True)
    assert torch.equal(plain.logits, kept.logits)
    assert same_caches(plain[CACHE], kept[CACHE])
    for site in sites:
        assert [len(ids) for ids in run.kept(site)] == run.latest.visual


@pytest.mark.covering(1)
@pytest.mark.parametrize("variant", ["sdpa", "eager", "mha", "siglip", "bfloat16", "float16"])
@pytest.mark.parametrize("sites", SITES, ids="+".join)
@pytest.mark.parametrize("layouts", [ONE, RAGGED], ids=["one", "ragged"])
def test_a_generation_that_keeps_all_is_the_plain_one(variant, sites, layouts):
    model = shared(variant)
    rows = prompts(model, layouts)
    words, logits, _ = generate(model, rows)
    with ts.prune(model, everything(sites)):
        kept_words, kept_logits, _ = generate(model, rows)
    assert torch.equal(words, kept_words)
    assert torch.equal(logits, kept_logits)


@pytest.mark.parametrize("changes", [{"keep": 10_000}, {"rest": "merge"}, {"positions": "compact"}], ids=str)
@pytest.mark.parametrize("sites", [["decoder.0"], ["decoder.2"]], ids="+".join)
def test_other_ways_to_keep_all_are_the_plain_one_too(changes, sites):
    model = shared("sdpa")
    rows = prompts(model, RAGGED)
    words, logits, _ = generate(model, rows)
    with ts.prune(model, everything(sites, **changes)):
        kept_words, kept_logits, _ = generate(model, rows)
    assert torch.equal(words, kept_words)
    assert torch.equal(logits, kept_logits)
