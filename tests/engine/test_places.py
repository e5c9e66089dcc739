"""Where the places of a request stand in the outputs, and the log-likelihood of an answer read by them.

Right is a loop over the prompt and the kept ids, and for values the sequence pruned by hand.
"""

import threading

import pytest
import torch

import tokensieve as ts
from tokensieve_adapters.timm_vit import TimmVitAdapter
from tokensieve_strategies import FastV, Norm, ToMe

from .models import BOS, CACHE, IMAGE, ONE, PAD, RAGGED, SEVERAL, TEXT, batch, patches, prompts, shared
from .reference import Cut, Plain, Written, judged, norms

K = 5
BEFORE = ts.Recipe.of(Norm(), K)
INSIDE = ts.Recipe.of(Norm(), K, at="decoder.2")
BOTH = ts.Recipe(stages=tuple(ts.Stage(at=f"decoder.{b}", select=Norm(), keep=K - b) for b in (0, 2)))
ATTENDED = ts.Recipe.of(FastV(), K, at="decoder.2")
MERGED = ts.Recipe.of(ToMe(), K, rest="merge")
TOWER = ts.Recipe.of(ToMe(metric="keys"), at="encoder.0..1", r=3, rest="merge")
EVERY = {"before": BEFORE, "inside": INSIDE, "both": BOTH, "attended": ATTENDED, "merged": MERGED, "tower": TOWER}


def staying(run, inputs):
    """The places of each row that are in the last layer, by a loop over its words."""
    found = []
    for number, words in enumerate(inputs["input_ids"].tolist()):
        kept, seen, own = set(run.latest.stages[-1].samples[number].kept.tolist()), 0, []
        for place, word in enumerate(words):
            if not inputs["attention_mask"][number, place]:
                continue
            if word != IMAGE or seen in kept:
                own.append(place)
            seen += word == IMAGE
        found.append(own)
    return found


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("layouts", [ONE, SEVERAL, RAGGED, TEXT, [*SEVERAL, [1, IMAGE, 9]]], ids=str)
@pytest.mark.parametrize("recipe", [name for name in EVERY if name != "tower"])
@torch.no_grad()
def test_places_are_those_of_a_loop(recipe, layouts, side):
    if side == "right" and recipe in ("inside", "both", "attended") and layouts not in (ONE, SEVERAL, TEXT):
        side = "left"
    model = shared("sdpa")
    inputs = batch(prompts(model, layouts), side, room=2 if side == "left" else 0)
    with ts.prune(model, EVERY[recipe]) as run:
        out = model(**inputs, output_hidden_states=True)
    places = run.places
    n = inputs["input_ids"].shape[1]
    assert places.length == n
    assert places.output.shape == inputs["input_ids"].shape
    assert places.request.shape == out.logits.shape[:2] == out.hidden_states[-1].shape[:2]
    for own, there, back, before in zip(
        staying(run, inputs), places.output, places.request, places.predicting, strict=True
    ):
        assert torch.nonzero(there >= 0).flatten().tolist() == own
        assert [int(back[there[place]]) for place in own] == own
        assert sorted(back[back >= 0].tolist()) == own
        for place in range(n):
            earlier = [at for at in own if at < place]
            assert int(before[place]) == (int(there[earlier[-1]]) if earlier else -1)


@pytest.mark.parametrize("recipe", EVERY)
@torch.no_grad()
def test_text_is_found_with_its_own_vector(recipe):
    """What enters the language model at the output place of a word is the word's embedding, in every row."""
    model = shared("sdpa")
    inputs = batch(prompts(model, RAGGED))
    table = model.get_input_embeddings().weight
    with ts.prune(model, EVERY[recipe]) as run:
        entered = model(**inputs, output_hidden_states=True).hidden_states[0]
    for number, words in enumerate(inputs["input_ids"].tolist()):
        places = [p for p, word in enumerate(words) if word not in (PAD, IMAGE)]
        assert torch.equal(entered[number, run.places.output[number, places]], table[[words[p] for p in places]])
        assert (run.places.output[number, [p for p, word in enumerate(words) if word == PAD]] == -1).all()


@torch.no_grad()
def test_tokens_that_left_in_the_tower_are_nowhere():
    model = shared("sdpa")
    row = prompts(model, ONE)[0]
    with ts.prune(model, TOWER) as run:
        out = model(**batch([row]))
    there = run.places.output[0]
    assert int((there[4 : 4 + patches(model)] >= 0).sum()) == run.latest.entering[0] == 10
    assert out.logits.shape[1] == len(row.words) - 6


def chance(logits, words):
    return float(logits.log_softmax(dim=-1)[range(len(words)), list(words)].sum())


ANSWER = (7, 31, 12)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("recipe", ["before", "inside", "both", "attended", "merged", "tower"])
@torch.no_grad()
def test_a_likelihood_with_all_tokens_is_the_plain_one(recipe, side):
    model = shared("sdpa")
    rows = [row.plus(ANSWER) for row in prompts(model, RAGGED)]
    if recipe in ("inside", "both", "attended"):
        side = "left"
    inputs = batch(rows, side)
    plain, real = model(**inputs).logits, inputs["attention_mask"].bool()
    whole = ts.Recipe.of(ToMe(metric="keys"), "100%", at="encoder.1", rest="merge")
    if recipe != "tower":
        whole = EVERY[recipe].replace(keep=["100%"] * 2 if recipe == "both" else "100%")
    with ts.prune(model, whole) as run:
        logits = model(**inputs).logits
    assert torch.equal(run.restore(logits)[real], logits[real])
    torch.testing.assert_close(logits[real], plain[real], atol=1e-5, rtol=1e-5)
    assert torch.equal(run.places.output >= 0, real)


@pytest.mark.parametrize("way", ["restore", "predicting"])
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_a_likelihood_sliced_by_absolute_places_is_that_of_the_hand_pruned_sequence(side, way):
    """As evaluation harnesses do it: logits of one forward, from the length of the context to that of the request."""
    model = shared("sdpa")
    contexts = prompts(model, [*RAGGED, [4, IMAGE]])
    rows = [row.plus(ANSWER) for row in contexts]
    inputs = batch(rows, side)
    with ts.prune(model, BEFORE) as run:
        logits = model(**inputs).logits
    width = inputs["input_ids"].shape[1]
    for number, row in enumerate(contexts):
        kept = judged(model, row, norms, K, patches(model))
        right = chance(Plain(model).logits(row, kept, ANSWER)[-len(ANSWER) - 1 : -1], ANSWER)
        start = len(row.words) + (width - len(rows[number].words) if side == "left" else 0)
        if way == "restore":
            found = run.restore(logits)[number, start - 1 : start - 1 + len(ANSWER)]
        else:
            found = logits[number, run.places.predicting[number, start : start + len(ANSWER)]]
        assert chance(found, ANSWER) == pytest.approx(right, abs=1e-4)
    # Slicing without it reads other places, or none.
    wrong = logits[0, start - 1 : start - 1 + len(ANSWER)]
    assert len(wrong) < len(ANSWER) or chance(wrong, ANSWER) != pytest.approx(right, abs=1e-2)


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_rows_of_other_lengths_that_are_equally_long_when_pruned(side):
    """Two pictures and little text, or one picture and more text: the shorter row's padding is gone, and not kept."""
    model = shared("sdpa")
    rows = prompts(model, [[2, IMAGE, IMAGE, 3], [2, IMAGE, 3 + K]])
    inputs = batch(rows, side)
    with ts.prune(model, BEFORE) as run:
        logits = model(**inputs).logits
    assert inputs["attention_mask"].sum(dim=1).diff() == K - patches(model)
    for number, (row, own) in enumerate(zip(rows, staying(run, inputs), strict=True)):
        assert torch.nonzero(run.places.output[number] >= 0).flatten().tolist() == own
        right = Plain(model).logits(row, judged(model, row, norms, K, patches(model)))
        torch.testing.assert_close(logits[number], right, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_likelihood_inside_the_model_is_that_of_the_written_decoder():
    model = shared("sdpa")
    contexts = prompts(model, [[3, IMAGE, 2], [4, IMAGE, IMAGE, 7]])
    inputs = batch([row.plus(ANSWER) for row in contexts])
    with ts.prune(model, INSIDE) as run:
        logits = run.restore(model(**inputs).logits)
    start = inputs["input_ids"].shape[1] - len(ANSWER)
    for number, row in enumerate(contexts):
        # One forward judges context and answer together; what is kept does not depend on the answer here.
        kept = set(run.kept("decoder.2")[number].tolist())
        right = [Written(model).forward(row, {2: Cut(kept=kept)}, ANSWER[:step]).logits for step in range(len(ANSWER))]
        assert chance(logits[number, start - 1 : -1], ANSWER) == pytest.approx(
            chance(torch.stack(right), ANSWER), abs=1e-4
        )


@torch.no_grad()
def test_a_place_that_left_inside_the_model_is_read_as_the_last_that_stayed():
    """An answer right behind the picture is predicted by the last kept token, not by one that left."""
    model = shared("sdpa")
    row = prompts(model, [[4, IMAGE]])[0]
    inputs = batch([row.plus(ANSWER)])
    with ts.prune(model, INSIDE) as run:
        logits = model(**inputs).logits
    kept = run.kept("decoder.2")[0]
    place = 5 + int(kept[-1])
    assert int(run.places.predicting[0, len(row.words)]) == place
    assert torch.equal(run.restore(logits)[0, len(row.words) - 1], logits[0, place])


@torch.no_grad()
def test_the_last_places_alone():
    model = shared("sdpa")
    inputs = batch([row.plus(ANSWER) for row in prompts(model, RAGGED)])
    with ts.prune(model, BEFORE) as run:
        logits = model(**inputs).logits
        whole = run.restore(logits)
        few = run.restore(model(**inputs, logits_to_keep=4).logits)
    assert torch.equal(few[:, -4:], whole[:, -4:])
    assert not few[:, :-4].any()
    for shape in ((2, 4), (3, 500, 2), (3,)):
        with pytest.raises(ts.TokensieveError, match="not of this prefill"):
            run.restore(torch.zeros(shape))
    # Sliced before: as many are left whichever end is cut off.
    for sliced in (logits[:, :-1], logits[:, 1:], logits[:, -5:]):
        with pytest.raises(ts.TokensieveError, match=r"or 4 by its logits_to_keep.*slice what restore returns"):
            run.restore(sliced)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_cache": False},
        {"num_beams": 3},
        {"do_sample": True, "num_return_sequences": 2},
        {"prompt_lookup_num_tokens": 3},
        {"cache_implementation": "static", "disable_compile": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("recipe", ["before", "inside", "both"])
def test_generation_leaves_the_places_of_its_prompts(recipe, settings):
    model = shared("sdpa")
    rows = prompts(model, ONE if "prompt_lookup_num_tokens" in settings else RAGGED)
    rows = [row.plus((9, 8, 9, 8, 9)) for row in rows]
    inputs = batch(rows)
    with ts.prune(model, EVERY[recipe]) as run, torch.no_grad():
        model(**inputs)
        right = run.places
        model.generate(**inputs, **{"do_sample": False, "max_new_tokens": 3, "suppress_tokens": [IMAGE]} | settings)
    assert run.places is not right
    assert run.places.length == right.length == inputs["input_ids"].shape[1]
    assert torch.equal(run.places.request, right.request)


@torch.no_grad()
def test_turns_on_a_cache_are_not_shortened():
    """An answer scored on the cache of its context: its logits stand where its words do."""
    model = shared("sdpa")
    row = prompts(model, ONE)[0]
    with ts.prune(model, BEFORE) as run:
        whole = model(**batch([row.plus(ANSWER)])).logits
        whole = run.restore(whole)[0, -len(ANSWER) :]
        first = model(**batch([row]), use_cache=True)
        places = run.places
        second = model(input_ids=torch.tensor([ANSWER]), **{CACHE: first[CACHE]}).logits
    assert run.places is places
    assert second.shape[1] == len(ANSWER)
    torch.testing.assert_close(second[0], whole, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_every_prefill_and_every_thread_has_its_own():
    model = shared("sdpa")
    one, other = (batch(prompts(model, layouts)) for layouts in (ONE, SEVERAL))
    seen = {}
    with ts.prune(model, BEFORE) as run:
        model(**one)

        def ask():
            with torch.no_grad():
                model(**other)
            seen["places"] = run.places

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        assert run.places.length == one["input_ids"].shape[1]
        assert seen["places"].length == other["input_ids"].shape[1]
        assert [prefill.places.length for prefill in run.prefills] == [run.places.length, seen["places"].length]


@torch.no_grad()
def test_where_there_are_no_places():
    vit = TimmVitAdapter.tiny()
    with ts.prune(vit, ts.Recipe.of(ToMe(metric="keys"), at="encoder.0", r=2, rest="merge")) as run:
        with pytest.raises(ts.TokensieveError, match="nothing has run yet"):
            _ = run.places
        vit(torch.randn(1, 3, *vit.patch_embed.img_size))
        with pytest.raises(ts.TokensieveError, match="without a language model"):
            _ = run.places


def test_the_reference_would_tell():
    """The words of the test prompts are no padding and no placeholder, so each is found by one place only."""
    assert not {PAD, BOS, IMAGE} & set(ANSWER)
