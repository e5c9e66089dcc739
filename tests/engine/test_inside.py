"""`decoder.K`: a pruned prompt computes what a decoder written out from raw weights computes."""

import pytest
import torch
import torch.nn.functional as F

import tokensieve as ts
from tokensieve import Evidence, Scorer
from tokensieve_strategies import FastV, Norm

from .models import CACHE, IMAGE, ONE, RAGGED, SEVERAL, TEXT, batch, generate, llava, patches, prompts, shared
from .reference import Cut, Written, attended, norms


class KeyNorm(Scorer):
    """Keeps tokens with the largest keys of the layer before."""

    name = "key_norm"

    @property
    def needs(self):
        return frozenset({Evidence.DECODER_KEYS})

    def score(self, tokens):
        return tokens.decoder_keys.double().norm(dim=-1)


def key_norms(evidence):
    return {i: float(v.double().norm()) for i, v in evidence["keys"].items()}


JUDGES = {"fastv": (FastV(), attended), "norm": (Norm(), norms), "keys": (KeyNorm(), key_norms)}


def both(plan, positions="original"):
    """The recipe of a plan and the cuts of the reference; a plan lists (block, judge, k, rest)."""
    stages = tuple(
        ts.Stage(at=f"decoder.{block}", select=JUDGES[judge][0], keep=k, rest=rest) for block, judge, k, rest in plan
    )
    cuts = {block: Cut(k, JUDGES[judge][1], merge=rest == "merge") for block, judge, k, rest in plan}
    return ts.Recipe(stages=stages, positions=positions), cuts


PLANS = {
    "1": [(1, "fastv", 5, "drop")],
    "2": [(2, "fastv", 3, "drop")],
    "3": [(3, "norm", 4, "drop")],
    "keys": [(2, "keys", 4, "drop")],
    "merge": [(2, "fastv", 4, "merge")],
    "0+2": [(0, "norm", 9, "drop"), (2, "fastv", 4, "drop")],
    "1+3": [(1, "norm", 8, "drop"), (3, "keys", 3, "drop")],
    "0+1+2+3": [(0, "norm", 12, "drop"), (1, "fastv", 9, "drop"), (2, "keys", 6, "drop"), (3, "fastv", 2, "drop")],
    "0+2 merge": [(0, "norm", 9, "merge"), (2, "norm", 4, "merge")],
    "1+2 merge": [(1, "fastv", 9, "merge"), (2, "fastv", 4, "merge")],
}


def held(run, rows):
    """How many places the ledger says that each layer holds of the prompts."""
    layers = len(run.layers)
    visual = [run.visual_per_layer(i) for i in range(len(rows))]
    return [max(t + v[n] for t, v in zip(run.latest.text, visual, strict=True)) for n in range(layers)]


@pytest.mark.covering(1)
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("layouts", [ONE, RAGGED], ids=["one", "ragged"])
def test_generation_is_that_of_the_written_decoder(plan, positions, layouts):
    check(shared("sdpa"), plan, positions, layouts)


@pytest.mark.parametrize("variant", ["eager", "mha", "siglip"])
@pytest.mark.parametrize("plan", ["2", "1+3", "0+2 merge"])
def test_other_models_too(variant, plan):
    check(shared(variant), plan, "original", RAGGED)


def check(model, plan, positions, layouts, steps=4, **settings):
    recipe, cuts = both(PLANS[plan], positions)
    rows = prompts(model, layouts)
    with ts.prune(model, recipe) as run:
        words, logits, out = generate(model, rows, steps, **settings)
    for number, (row, new, seen) in enumerate(zip(rows, words, logits, strict=True)):
        right, right_logits, trace = Written(model, positions).greedy(row, cuts, steps)
        for block, kept in trace.kept.items():
            assert run.kept(f"decoder.{block}")[number].tolist() == kept
        assert new.tolist() == right
        torch.testing.assert_close(seen.double(), right_logits, atol=5e-4, rtol=1e-4)
    if CACHE in out:
        assert [layer.keys.shape[2] for layer in out[CACHE].layers] == [n + steps - 1 for n in held(run, rows)]


@pytest.mark.parametrize("plan", ["2", "0+2", "merge"])
@pytest.mark.parametrize("positions", ["original", "compact"])
def test_without_a_cache(plan, positions):
    check(shared("sdpa"), plan, positions, RAGGED, use_cache=False, suppress_tokens=[IMAGE], steps=1)
    model, (recipe, _) = shared("sdpa"), both(PLANS[plan], positions)
    rows = prompts(model, RAGGED)
    with ts.prune(model, recipe):
        cached, cached_logits, _ = generate(model, rows, suppress_tokens=[IMAGE])
        words, logits, _ = generate(model, rows, suppress_tokens=[IMAGE], use_cache=False)
    assert torch.equal(words, cached)
    torch.testing.assert_close(logits, cached_logits, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("positions", ["original", "compact"])
@torch.no_grad()
def test_a_forward_keeps_its_length(positions):
    model = shared("sdpa")
    rows = prompts(model, RAGGED)
    recipe, cuts = both(PLANS["1+3"], positions)
    with ts.prune(model, recipe):
        logits = model(**batch(rows)).logits
    assert logits.shape[1] == batch(rows)["input_ids"].shape[1]
    for row, seen in zip(rows, logits, strict=True):
        right = Written(model, positions).forward(row, cuts).every
        torch.testing.assert_close(seen[len(seen) - len(right) :].double(), right, atol=5e-4, rtol=1e-4)


@torch.no_grad()
def test_logits_of_chosen_places():
    model = shared("sdpa")
    rows = prompts(model, RAGGED)
    with ts.prune(model, both(PLANS["2"])[0]):
        whole = model(**batch(rows)).logits
        # Not to the bit: a product of two rows is summed in another order than one of all.
        found = model(**batch(rows), logits_to_keep=2).logits
    torch.testing.assert_close(found, whole[:, -2:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layouts", [ONE, RAGGED], ids=["one", "ragged"])
def test_loss_is_that_of_the_written_decoder_and_gradients_flow(layouts):
    model = shared("sdpa")
    rows = prompts(model, layouts)
    recipe, cuts = both(PLANS["1+3"])
    inputs = batch(rows)
    labels = inputs["input_ids"].masked_fill((inputs["attention_mask"] == 0) | (inputs["input_ids"] <= 1), -100)
    labels[labels == IMAGE] = -100
    parts = [model.model.multi_modal_projector.linear_1.weight, model.lm_head.weight]
    with ts.prune(model, recipe):
        loss = model(**inputs, labels=labels).loss
        gradients = torch.autograd.grad(loss, parts)
    every, wanted = [], []
    for row in rows:
        every.append(Written(model).forward(row, cuts).every[:-1])
        wanted += [-100 if word == IMAGE else word for word in row.words[1:]]
    right = F.cross_entropy(torch.cat(every), torch.tensor(wanted), ignore_index=-100)
    torch.testing.assert_close(loss.double(), right, atol=1e-4, rtol=1e-4)
    assert all(torch.isfinite(g).all() and g.abs().max() > 0 for g in gradients)


def test_a_gradient_is_the_slope_of_the_written_loss():
    model = llava(seed=3)
    rows = prompts(model, ONE)
    recipe, cuts = both([(2, "norm", 4, "drop")])
    with ts.prune(model, recipe):
        logits = model(**batch(rows)).logits[0, -1]
        weight = model.model.language_model.layers[1].mlp.up_proj.weight
        gradient = torch.autograd.grad(logits.square().mean(), weight)[0]
    direction = gradient / gradient.norm()

    def moved(by):
        written = Written(model)
        written.weights["layers.1.mlp.up_proj.weight"] = weight.detach().double() + by * direction.double()
        return written.forward(rows[0], cuts).logits.square().mean()

    slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
    torch.testing.assert_close(gradient.norm().double(), slope, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("variant", ["sdpa", "eager", "mha"])
@pytest.mark.parametrize("block", [1, 2, 3])
@torch.no_grad()
def test_the_attention_seen_is_the_models_own(variant, block):
    model = shared(variant)
    rows = prompts(model, RAGGED)
    seen = []

    class Watch(FastV):
        name = "watch"

        def score(self, tokens):
            seen.append((tokens.samples, tokens.ids, tokens.valid, tokens.decoder_attention))
            return super().score(tokens)

    recipe = ts.Recipe(stages=(ts.Stage(at=f"decoder.{block}", select=Watch(), keep=4),))
    with ts.prune(model, recipe):
        model(**batch(rows))
    config = model.config.text_config
    before = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        every = model(**batch(rows), output_attentions=True).attentions[block - 1]
    finally:
        config._attn_implementation = before
    ((samples, ids, valid, attention),) = seen
    places = [torch.nonzero(row == IMAGE).flatten() for row in batch(rows)["input_ids"]]
    for sample, own, real, rows_seen in zip(samples.tolist(), ids, valid, attention, strict=True):
        right = every[sample, :, -1, places[sample][own[real]]].T
        torch.testing.assert_close(rows_seen[real].float(), right, atol=1e-6, rtol=0)


@pytest.mark.parametrize("block", [1, 2, 3])
@torch.no_grad()
def test_both_attentions_keep_the_same(block):
    kept = []
    for variant in ("sdpa", "eager"):
        model = shared(variant)
        with ts.prune(model, both([(block, "fastv", 5, "drop")])[0]) as run:
            model(**batch(prompts(model, RAGGED)))
        kept.append([ids.tolist() for ids in run.kept(f"decoder.{block}")])
    assert kept[0] == kept[1]


@pytest.mark.parametrize("plan", ["1", "0+2"])
@torch.no_grad()
def test_a_row_gets_what_it_gets_alone(plan):
    model = shared("sdpa")
    rows = prompts(model, RAGGED)
    site = f"decoder.{PLANS[plan][-1][0]}"
    with ts.prune(model, both(PLANS[plan])[0]) as run:
        model(**batch(rows, room=2))
        for row, ids in zip(rows, run.kept(site), strict=True):
            model(**batch([row]))
            assert torch.equal(run.kept(site)[0], ids)


def test_text_alone_is_left_alone():
    model = shared("sdpa")
    rows = prompts(model, [*TEXT, [3]])
    words, logits, _ = generate(model, rows)
    with ts.prune(model, both(PLANS["0+2"])[0]) as run:
        pruned, pruned_logits, _ = generate(model, rows)
    assert torch.equal(words, pruned)
    assert torch.equal(logits, pruned_logits)
    assert [ids.tolist() for ids in run.kept("decoder.2")] == [[], []]


@pytest.mark.parametrize("plan", ["2", "0+2", "1+3"])
@pytest.mark.parametrize("positions", ["original", "compact"])
@torch.no_grad()
def test_a_loop_that_passes_no_positions(plan, positions):
    model = shared("sdpa")
    rows = prompts(model, SEVERAL)
    recipe, cuts = both(PLANS[plan], positions)
    right, right_logits, _ = Written(model, positions).greedy(rows[0], cuts, 3)
    with ts.prune(model, recipe):
        out = model(**batch(rows), use_cache=True)
        for word, logits in zip(right, right_logits, strict=True):
            torch.testing.assert_close(out.logits[0, -1].double(), logits, atol=5e-4, rtol=1e-4)
            out = model(input_ids=torch.tensor([[word]]), **{CACHE: out[CACHE]}, use_cache=True)


@torch.no_grad()
def test_a_tuple_instead_of_a_dict():
    model = shared("sdpa")
    rows = prompts(model, ONE)
    follow = torch.tensor([[7]])
    with ts.prune(model, both(PLANS["0+2"])[0]):
        named = model(**batch(rows), use_cache=True)
        after = model(input_ids=follow, **{CACHE: named[CACHE]}).logits
        plain = model(**batch(rows), use_cache=True, return_dict=False)
        assert torch.equal(plain[0], named.logits)
        assert torch.equal(model(input_ids=follow, **{CACHE: plain[1]}, return_dict=False)[0], after)


@torch.no_grad()
def test_images_of_one_row_are_judged_apart():
    model = shared("sdpa")
    rows = prompts(model, SEVERAL)
    size = patches(model)
    with ts.prune(model, both(PLANS["2"])[0]) as run:
        model(**batch(rows))
    kept = run.kept("decoder.2")[0]
    assert [(kept // size == image).sum() for image in range(2)] == [3, 3]
