"""A conversation on a pruned cache, turn after turn, for several rows at once."""

import pytest
import torch

import tokensieve as ts
from tokensieve.errors import RefusedError
from tokensieve_strategies import FastV, Norm

from .models import CACHE, IMAGE, ONE, RAGGED, Prompt, batch, prompts, shared
from .reference import Cut, Written, attended, norms

RECIPES = {
    "0": {0: (Norm(), Cut(5, norms))},
    "2": {2: (FastV(), Cut(5, attended))},
    "0+2": {0: (Norm(), Cut(9, norms)), 2: (FastV(), Cut(4, attended))},
    "1+3": {1: (Norm(), Cut(9, norms)), 3: (FastV(), Cut(4, attended))},
}
STEPS = 3


def planned(name, positions="original"):
    stages = tuple(ts.Stage(at=f"decoder.{b}", select=s, keep=c.k) for b, (s, c) in RECIPES[name].items())
    return ts.Recipe(stages=stages, positions=positions)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("variant", ["sdpa", "eager"])
def test_rows_go_on_with_turns_of_different_lengths(variant, name, positions):
    """Words of the second turn are padded in the middle, between the first answer and the question."""
    model = shared(variant)
    rows = prompts(model, RAGGED)
    follow = [[11], [12, 13, 14], [15, 16]]
    settings = {"do_sample": False, "max_new_tokens": STEPS, "return_dict_in_generate": True, "output_logits": True}
    with ts.prune(model, planned(name, positions)) as run:
        inputs = batch(rows)
        first = model.generate(**inputs, **settings)
        ids, mask = first.sequences, torch.cat([inputs["attention_mask"], torch.ones(3, STEPS).long()], dim=1)
        turn = batch([Prompt(tuple(words), rows[0].pixels[:0]) for words in follow])
        ids = torch.cat([ids, turn["input_ids"]], dim=1)
        mask = torch.cat([mask, turn["attention_mask"]], dim=1)
        second = model.generate(input_ids=ids, attention_mask=mask, **{CACHE: first[CACHE]}, **settings)
    assert len(run.prefills) == 1
    start = inputs["input_ids"].shape[1]
    for number, row in enumerate(rows):
        written = Written(model, positions)
        trace = written.forward(row, {b: cut for b, (_, cut) in RECIPES[name].items()})
        fixed = {b: Cut(kept=set(kept)) for b, kept in trace.kept.items()}
        said = first.sequences[number, start:].tolist() + follow[number]
        for step in range(STEPS):
            right = written.forward(row, fixed, said).logits
            torch.testing.assert_close(second.logits[step][number].double(), right, atol=5e-4, rtol=1e-4)
            said.append(int(right.argmax()))
        assert second.sequences[number, -STEPS:].tolist() == said[-STEPS:]


@pytest.mark.parametrize("name", RECIPES)
def test_beams_need_no_cache(name):
    model = shared("sdpa")
    inputs = batch(prompts(model, RAGGED))
    settings = {"do_sample": False, "max_new_tokens": 4, "num_beams": 3, "suppress_tokens": [IMAGE]}
    with ts.prune(model, planned(name)):
        cached = model.generate(**inputs, **settings)
        assert torch.equal(model.generate(**inputs, **settings, use_cache=False), cached)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("call", ["generate", "forward"])
@torch.no_grad()
def test_a_pruned_cache_is_refused_where_nothing_prunes(name, call):
    """The plain model would misread it, and mostly without an error."""
    model = shared("sdpa")
    row = prompts(model, ONE)[0]
    with ts.prune(model, planned(name)):
        out = model.generate(**batch([row]), max_new_tokens=2, do_sample=False, return_dict_in_generate=True)
    words, more = (out.sequences, {"max_new_tokens": 2}) if call == "generate" else (out.sequences[:, -1:], {})
    with pytest.raises(RefusedError, match="inside `with prune"):
        (model.generate if more else model)(input_ids=words, **{CACHE: out[CACHE]}, **more)
    # A later prune by the same recipe goes on.
    with ts.prune(model, planned(name)):
        right = model(input_ids=out.sequences[:, -1:], **{CACHE: out[CACHE]}).logits
    trace = Written(model).forward(row, {b: cut for b, (_, cut) in RECIPES[name].items()})
    fixed = {b: Cut(kept=set(kept)) for b, kept in trace.kept.items()}
    logits = Written(model).forward(row, fixed, out.sequences[0, len(row.words) :].tolist()).logits
    torch.testing.assert_close(right[0, -1].double(), logits, atol=5e-4, rtol=1e-4)


@torch.no_grad()
def test_a_recipe_that_does_not_reach_the_cut_is_refused():
    model = shared("sdpa")
    row = prompts(model, ONE)[0]
    for name, other, fits in (("2", "0", False), ("1+3", "2", False), ("0", "2", True), ("2", "1+3", True)):
        with ts.prune(model, planned(name)):
            cache = model(**batch([row]), use_cache=True)[CACHE]
        with ts.prune(model, planned(other)):
            if fits:
                model(input_ids=torch.tensor([[5]]), **{CACHE: cache})
                continue
            with pytest.raises(RefusedError, match=rf"pruned at decoder\.{name[0]}"):
                model(input_ids=torch.tensor([[5]]), **{CACHE: cache})


@pytest.mark.parametrize("name", ["0", "2"])
def test_padding_on_the_right_is_found_without_a_mask(name):
    """Generation reads the mask off the padding itself."""
    model = shared("sdpa")
    inputs = batch(prompts(model, RAGGED), "right")
    inputs.pop("attention_mask")
    with ts.prune(model, planned(name)) as run, pytest.raises(RefusedError, match="left"):
        model.generate(**inputs, max_new_tokens=2)
    assert not run.prefills


def test_a_config_given_by_its_place():
    from transformers import GenerationConfig

    model = shared("sdpa")
    inputs = batch(prompts(model, ONE))
    with ts.prune(model, planned("0")), pytest.raises(RefusedError, match="prefill_chunk_size"):
        model.generate(
            inputs["input_ids"],
            GenerationConfig(prefill_chunk_size=4, max_new_tokens=2),
            pixel_values=inputs["pixel_values"],
        )
