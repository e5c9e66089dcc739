"""What a run kept can be kept again."""

import json
import os

import pytest
import torch

import tokensieve as ts
from tokensieve.errors import RecipeError, RefusedError
from tokensieve_strategies import Norm, Random

from .models import ONE, RAGGED, batch, generate, llava, prompts, shared


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


def recording(tmp_path, model, rows, recipe=None, **settings):
    """Record a run, and return its file and what is in it, but for the checksum."""
    path = tmp_path / "kept.json"
    with ts.prune(model, recipe or ts.Recipe.of(Norm(), 4), **settings) as run:
        generate(model, rows)
    run.save(path)
    content = json.loads(path.read_text())
    assert content.pop("checksum")
    return path, content


def test_another_family_is_refused_before_it_runs(tmp_path):
    model = shared("sdpa")
    path, content = recording(tmp_path, model, prompts(model, ONE))
    assert content["family"] == "llava"
    path.write_text(json.dumps(content | {"family": "qwen2_vl"}))
    with pytest.raises(RefusedError, match=r"kept\.json is a recording of a model of qwen2_vl, .* is of llava"):
        replayed(model, prompts(model, ONE), path)


def test_a_sample_of_another_size_is_refused(tmp_path):
    small, large = shared("sdpa"), llava(side=5)
    path, _ = recording(tmp_path, small, prompts(small, ONE))
    with pytest.raises(RecipeError, match=r"kept\.json is a recording of other tokens: .* 4 of 16, and here are 25"):
        replayed(large, prompts(large, ONE), path)
    path, _ = recording(tmp_path, large, prompts(large, ONE))
    with pytest.raises(RecipeError, match="4 of 25, and here are 16"):
        replayed(small, prompts(small, ONE), path)


def test_tokens_that_an_earlier_stage_removed_are_refused(tmp_path):
    model = shared("sdpa")
    path, _ = recording(tmp_path, model, prompts(model, ONE), ts.Recipe.of(Norm(), 4, at="decoder.2"))
    others = ts.Stage(at="decoder.0", select=Random(seed=9), keep=8)
    recipe = ts.Recipe(stages=(others, ts.Stage(at="decoder.2", select=ts.replay(path), keep="auto")))
    with pytest.raises(RecipeError, match="of 16, and here are 8"), ts.prune(model, recipe):
        generate(model, prompts(model, ONE))


def changed(**fields):
    return lambda content: content["samples"][0].update(fields)


def keeps(ids):
    return changed(kept={"decoder.0": ids})


@pytest.mark.parametrize(
    "change",
    [
        keeps([0, 1, 2, 16]),
        keeps([0, 1, 2, 2**40]),
        keeps([0, 1, 2, 10**30]),
        keeps([-1, 0, 1, 2]),
        keeps([0, 1, 2.0, 3]),
        keeps([0, 1, 2.5, 3]),
        keeps([0, 1, 2, float("nan")]),
        keeps([0, 1, 2, True]),
        keeps([0, 1, 2, "3"]),
        keeps([0, 1, 2, None]),
        keeps([0, 2, 1, 3]),
        keeps([0, 1, 1, 2]),
        keeps([0, [1], 2, 3]),
        keeps("0123"),
        keeps({"0": 1}),
        keeps(None),
        keeps([*range(17)]),
        changed(kept={"decoder": [0]}, tokens={"decoder": [16]}),
        changed(kept={"decoder.3": [0]}),
        changed(tokens={}),
        changed(tokens={"decoder.0": []}),
        changed(tokens={"decoder.0": [-16]}),
        changed(visual=-1),
        changed(visual=3),
        changed(visual=16.0),
        changed(key="a"),
        changed(key=2**64),
        changed(row=-1),
        changed(prefill=0.5),
        changed(more=1),
        lambda content: content["samples"][0].pop("key"),
        lambda content: content["samples"].append(content["samples"][0]),
        lambda content: content["samples"].append(5),
        lambda content: content.update(samples={}),
        lambda content: content.update(recipe="no hash"),
        lambda content: content.update(recipe=5),
        lambda content: content.update(family=None),
        lambda content: content.pop("family"),
        lambda content: content.update(format="tokensieve.kept/1"),
        lambda content: content.update(more=1),
    ],
)
def test_a_recording_that_was_changed_is_refused_with_its_path(tmp_path, change):
    model = shared("sdpa")
    path, content = recording(tmp_path, model, prompts(model, ONE))
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(RecipeError, match=r"kept\.json is ") as raised:
        replayed(model, prompts(model, ONE), path)
    assert len(str(raised.value)) < 600


def test_other_ids_that_could_have_been_kept_are_refused_by_the_checksum(tmp_path):
    model = shared("sdpa")
    path, content = recording(tmp_path, model, prompts(model, ONE))
    ids = content["samples"][0]["kept"]["decoder.0"]
    other = sorted({*range(16)} - {*ids})[0]
    written = json.loads(path.read_text())
    written["samples"][0]["kept"]["decoder.0"] = sorted([other, *ids[1:]])
    path.write_text(json.dumps(written))
    with pytest.raises(RecipeError, match=r"kept\.json is .*changed since it was written.*take `checksum` out"):
        replayed(model, prompts(model, ONE), path)
    # Without one, it is a file of one's own.
    del written["checksum"]
    path.write_text(json.dumps(written, indent=1))
    kept, _, _ = replayed(model, prompts(model, ONE), path)
    assert kept[0].tolist() == written["samples"][0]["kept"]["decoder.0"]


def test_a_recording_is_a_file(tmp_path):
    model = shared("sdpa")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero"):
        with pytest.raises(RecipeError, match="a folder, a pipe or a device"):
            replayed(model, prompts(model, ONE), path)
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(RecipeError, match=r"deep\.json is no file of kept ids"):
        replayed(model, prompts(model, ONE), tmp_path / "deep.json")


def test_newline_tokens_that_are_not_judged_and_groups_are_no_other_size(tmp_path):
    model = shared("sdpa")
    recipe = ts.Recipe.of(Norm(), 4, newlines="drop", per="tile")
    path, _ = recording(tmp_path, model, prompts(model, ONE), recipe)
    for newlines, per in (("drop", "image"), ("judge", "tile")):
        again = ts.Recipe.of(ts.replay(path), "auto", newlines=newlines, per=per)
        with ts.prune(model, again) as run:
            generate(model, prompts(model, ONE))
        assert len(run.kept("decoder.0")[0]) == 4


def review(select, keep=4):
    return [(one.level, one.message) for one in ts.review(ts.Recipe.of(select, keep))]


def test_what_a_recording_refuses_at_any_model_is_found_before(tmp_path):
    """`a[m] >> replay(file)` judges m tokens, and the recording is of 16."""
    model = shared("sdpa")
    rows = prompts(model, ONE)
    stages = tuple(ts.Stage(at=site, select=Norm(), keep=k) for site, k in (("decoder.0", 9), ("decoder.2", 4)))
    path, _ = recording(tmp_path, model, rows, ts.Recipe(stages=stages))
    deep = ts.replay(path, "decoder.2")
    [(level, said)] = review(Random(seed=5)[8] >> deep)
    assert level == "warning"
    assert "is a recording of 9, 16 tokens, of which 8 of a group are left here for 'replay' to judge" in said
    eight = Random(seed=5)[8] >> deep
    with pytest.raises(RecipeError, match="a recording of other tokens"), ts.prune(model, eight, keep=4):
        generate(model, rows)
    # The nine that entered the recorded stage are the nine that are left for it here.
    fits = Norm()[9] >> deep
    assert review(fits) == []
    with ts.prune(model, fits, keep=4) as run:
        generate(model, rows)
    assert run.kept("decoder.0")[0].tolist() == json.loads(path.read_text())["samples"][0]["kept"]["decoder.2"]
    # What stands to the left judges all tokens.
    assert not [said for _, said in review(deep[4] >> Norm(), keep=2) if "recording" in said]


@pytest.mark.parametrize("at", [None, "decoder.3"])
def test_a_recording_that_cannot_be_read_is_found_before(tmp_path, at):
    model = shared("sdpa")
    stages = tuple(ts.Stage(at=site, select=Norm(), keep=k) for site, k in (("decoder.0", 9), ("decoder.2", 4)))
    path, _ = recording(tmp_path, model, prompts(model, ONE), ts.Recipe(stages=stages))
    adapter = ts.default_registry().adapter_for(model)
    for one, said in ((ts.replay(path, at), "say which with at="), (ts.replay(tmp_path / "no", at), "no file of kept")):
        recipe = ts.Recipe.of(one, "auto")
        for given in (None, adapter):
            [finding] = ts.review(recipe, given)
            assert finding.level == "error"
            assert said in finding.message
    long = ts.replay("x" * 300)
    assert "is no file of kept ids" in ts.review(ts.Recipe.of(long, "auto"))[0].message
