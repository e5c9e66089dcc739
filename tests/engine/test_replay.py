"""What a run kept can be kept again."""

import json

import pytest
import torch

import tokensieve as ts
from tokensieve.errors import RecipeError
from tokensieve_strategies import Norm, Random

from .models import ONE, RAGGED, batch, generate, prompts, shared


def replayed(model, rows, path, at=None, site="decoder.0", **settings):
    recipe = ts.Recipe(stages=(ts.Stage(at=site, select=ts.replay(path, at), keep="auto"),))
    with ts.prune(model, recipe, **settings) as run:
        words, logits, _ = generate(model, rows)
    return run.kept(site), words, logits


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("site", ["decoder.0", "decoder.2"])
@pytest.mark.parametrize("layouts", [ONE, RAGGED], ids=["one", "ragged"])
def test_a_batch_is_found_by_its_places(tmp_path, site, layouts):
    model = shared("sdpa")
    rows, path = prompts(model, layouts), tmp_path / "kept.json"
    recipe = ts.Recipe(stages=(ts.Stage(at=site, select=Random(seed=3), keep=4),))
    with ts.prune(model, recipe) as run:
        words, logits, _ = generate(model, rows)
    run.save(path)
    kept, again, again_logits = replayed(model, rows, path, site=site)
    assert same(kept, run.kept(site))
    assert torch.equal(words, again)
    assert torch.equal(logits, again_logits)


def test_samples_are_found_by_their_keys(tmp_path):
    model = shared("sdpa")
    rows, path = prompts(model, RAGGED), tmp_path / "kept.json"
    kept = {}
    with ts.prune(model, Random(), keep=4, keys=[7, 8, 9]) as run:
        generate(model, rows)
        kept = dict(zip([7, 8, 9], run.kept("decoder.0"), strict=True))
    run.save(path)
    again, _, _ = replayed(model, [rows[2], rows[0]], path, keys=[9, 7])
    assert same(again, [kept[9], kept[7]])
    with pytest.raises(RecipeError, match="no record of the sample key 12"):
        replayed(model, rows[:1], path, keys=[12])


def test_a_stage_of_several(tmp_path):
    model = shared("sdpa")
    rows, path = prompts(model, ONE), tmp_path / "kept.json"
    stages = tuple(ts.Stage(at=site, select=Norm(), keep=k) for site, k in (("decoder.0", 9), ("decoder.2", 4)))
    with ts.prune(model, ts.Recipe(stages=stages)) as run:
        generate(model, rows)
    run.save(path)
    assert same(replayed(model, rows, path, at="decoder.2")[0], run.kept("decoder.2"))
    for at in (None, "decoder.3"):
        with pytest.raises(RecipeError, match="say which with at="):
            replayed(model, rows, path, at=at)


def test_prefills_that_cannot_be_told_apart(tmp_path):
    model = shared("sdpa")
    rows, path = prompts(model, ONE), tmp_path / "kept.json"
    with ts.prune(model, Norm(), keep=4) as run, torch.no_grad():
        model(**batch(rows))
        model(**batch(rows))
    run.save(path)
    with pytest.raises(RecipeError, match="keys repeat"):
        replayed(model, rows, path)


@pytest.mark.parametrize("content", [None, "nothing", "[]", "{}", json.dumps({"format": "other/1", "samples": []})])
def test_what_is_no_such_file(tmp_path, content):
    model, path = shared("sdpa"), tmp_path / "kept.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RecipeError, match=r"kept\.json"):
        replayed(model, prompts(model, ONE), path)
