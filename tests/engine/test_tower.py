"""`encoder.K` of models that answer in words: what leaves the tower leaves the prompt, or is handed on whole."""

import itertools

import pytest
import torch

import tokensieve as ts
from tokensieve.errors import RefusedError
from tokensieve.testing.footprint import footprint
from tokensieve.testing.prompts import Prompts, randomize_weights
from tokensieve_adapters.cohere_vision import AyaVisionAdapter
from tokensieve_adapters.gemma3 import Gemma3Adapter
from tokensieve_adapters.llava_next import LlavaNextAdapter
from tokensieve_adapters.llava_onevision import LlavaOnevisionAdapter
from tokensieve_adapters.paligemma import PaliGemmaAdapter
from tokensieve_adapters.video_llava import VideoLlavaAdapter
from tokensieve_strategies import FastV, Norm, Random, ToMe

from .merging import Walk, attention, linear, mean_heads, norm
from .models import IMAGE, ONE, RAGGED, SEVERAL, batch, checkpointing, generate, llava, patches, prompts, shared

ACTIVATIONS = {
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu_pytorch_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
}


GIVEN = []


class Given(ts.Scorer):
    """Keeps the tokens that a test names."""

    name = "given"

    def score(self, tokens):
        rows = zip(tokens.samples.tolist(), tokens.ids.tolist(), strict=True)
        return torch.tensor([[float(i in GIVEN[sample]) for i in ids] for sample, ids in rows])


def merging(*blocks, r=3):
    at = f"encoder.{blocks[0]}..{blocks[-1]}"
    return ts.Stage.each(at=at, select=ToMe(metric="keys"), r=r, rest="merge")


def stage(at, keep, select=None, **rest):
    return ts.Stage(at=at, select=Norm() if select is None else select, keep=keep, **rest)


PLANS = {
    "merge": (merging(0, 1), {0: ("merge", 3), 1: ("merge", 3)}),
    "drop": ((stage("encoder.0", 11), stage("encoder.1", 6)), {0: ("drop", 11), 1: ("drop", 6)}),
    "both": ((*merging(0, 0, r=5), stage("encoder.1", 6)), {0: ("merge", 5), 1: ("drop", 6)}),
}


@torch.no_grad()
def walked(tower, picture, plan, layers):
    """One picture through the first `layers` of a CLIP or SigLIP tower, from raw weights."""
    clip = hasattr(tower, "pre_layrnorm")
    x = tower.embeddings(picture[None])
    x = tower.pre_layrnorm(x)[0] if clip else x[0]
    walk = Walk(x, int(clip))
    act = ACTIVATIONS[tower.config.hidden_act]
    for number in range(layers):
        layer = tower.encoder.layers[number]
        doing, amount = plan.get(number, (None, 0))
        if doing == "drop":
            walk.drop(amount)
        seen, own = norm(walk.x, layer.layer_norm1), layer.self_attn
        q, k, v = (linear(seen, part) for part in (own.q_proj, own.k_proj, own.v_proj))
        walk.x = walk.x + linear(attention(q, k, v, walk.sizes, own.num_heads), own.out_proj)
        if doing == "merge":
            walk.merge(mean_heads(k, own.num_heads), amount)
        walk.x = walk.x + linear(act(linear(norm(walk.x, layer.layer_norm2), layer.mlp.fc1)), layer.mlp.fc2)
    return walk


@torch.no_grad()
def answered(model, row, plan):
    """Logits of one LLaVA prompt whose pictures went through the tower by hand; and what stayed of each."""
    towers = model.model.vision_tower
    layers = model.config.vision_config.num_hidden_layers + model.config.vision_feature_layer + 1
    walks = [walked(towers, picture, plan, layers) for picture in row.pixels]
    words = torch.tensor(row.words)
    vectors = model.get_input_embeddings()(words)
    places = torch.nonzero(words == IMAGE).flatten().reshape(len(walks), patches(model))
    gone = set(places.flatten().tolist())
    for walk, own in zip(walks, places, strict=True):
        at = own[walk.ids]
        vectors[at] = model.model.multi_modal_projector(walk.x[walk.prefix :].float().to(vectors.dtype))
        gone -= set(at.tolist())
    stays = torch.tensor([place for place in range(len(words)) if place not in gone])
    out = model.model.language_model(
        inputs_embeds=vectors[stays][None], position_ids=stays[None], attention_mask=torch.ones(1, len(stays)).long()
    )
    return model.lm_head(out.last_hidden_state)[0], [walk.ids for walk in walks]


@pytest.mark.parametrize("variant", ["sdpa", "eager", "mha", "siglip"])
@pytest.mark.parametrize("plan", PLANS)
def test_a_ragged_batch_is_that_by_hand(variant, plan):
    model = shared(variant)
    stages, acts = PLANS[plan]
    rows = prompts(model, RAGGED)
    before = footprint(model)
    with ts.prune(model, ts.Recipe(stages=stages)) as run, torch.no_grad():
        out = model(**batch(rows)).logits
        words, logits, _ = generate(model, rows, steps=3, suppress_tokens=[IMAGE])
    assert footprint(model) == before
    n = patches(model)
    for number, row in enumerate(rows):
        right, kept = answered(model, row, acts)
        torch.testing.assert_close(out[number, -1], right[-1], atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(logits[number, 0, :IMAGE], right[-1, :IMAGE], atol=2e-3, rtol=1e-3)
        ids = [picture * n + one for picture, own in enumerate(kept) for one in own]
        assert run.kept(str(stages[-1].at))[number].tolist() == ids
        # Step by step, without a cache and without the engine's own decoding.
        longer = row
        for step in range(3):
            last = answered(model, longer, acts)[0][-1]
            last[IMAGE] = -torch.inf
            assert int(words[number, step]) == int(last.argmax())
            longer = longer.plus([int(words[number, step])])


@pytest.mark.parametrize("variant", ["sdpa", "siglip"])
@torch.no_grad()
def test_tower_entrance_and_layers_in_one_run(variant):
    """A recipe with stages in the tower, before the language model and inside it, is each of them in turn."""
    model = shared(variant)
    rows = prompts(model, SEVERAL + ONE)
    tower = merging(0, 1)
    deeper = (stage("decoder.0", 6), stage("decoder.1", 4, FastV()), stage("decoder.3", 2))
    with ts.prune(model, ts.Recipe(stages=(*tower, *deeper))) as run:
        out = model(**batch(rows)).logits
        kept = {str(one.at): run.kept(one.at) for one in (*tower, *deeper)}
        assert run.visual_per_layer(0) == [12, 8, 8, 4]
        assert run.visual_per_layer(1) == [6, 4, 4, 2]
        assert run.latest.visual == [32, 16]
        assert run.latest.entering == [20, 10]
        words, logits, _ = generate(model, rows, steps=3, suppress_tokens=[IMAGE])
    for before, after in itertools.pairwise(kept.values()):
        assert all(set(few.tolist()) <= set(many.tolist()) for many, few in zip(before, after, strict=True))
    torch.testing.assert_close(logits[:, 0], out[:, -1], atol=1e-4, rtol=1e-4)
    # The same without stages in the tower: its merged features are handed in, and the same tokens are kept of them.
    with ts.prune(model, ts.Recipe(stages=tower)) as run:
        merged = model.model.get_image_features(batch(rows)["pixel_values"])
        model(**batch(rows))
        left = [set(ids.tolist()) for ids in run.kept("encoder.1")]
    n = patches(model)
    norms = torch.cat(list(merged.pooler_output)).double().norm(dim=-1).split([2 * n, n])
    for own, ids, number in zip(norms, left, range(2), strict=True):
        pictures = [sorted(i for i in ids if i // n == picture) for picture in range(max(ids) // n + 1)]
        best = [sorted(picture, key=lambda i, own=own: (-float(own[i]), i))[:6] for picture in pictures]
        assert kept["decoder.0"][number].tolist() == sorted(i for own in best for i in own)
    GIVEN[:] = [set(ids.tolist()) for ids in kept["decoder.0"]]
    inputs = batch(rows)
    inputs.pop("pixel_values")
    with ts.prune(model, ts.Recipe(stages=(stage("decoder.0", 6, Given()), *deeper[1:]))) as run:
        again = model(**inputs, mm_encoder_outputs={"image": merged}).logits
        assert [ids.tolist() for ids in run.kept("decoder.3")] == [ids.tolist() for ids in kept["decoder.3"]]
    torch.testing.assert_close(again, out, atol=1e-4, rtol=1e-4)
    assert words.shape == (2, 3)


@pytest.mark.parametrize("rest", ["drop", "merge"])
@pytest.mark.parametrize("variant", ["sdpa", "eager", "siglip", "bfloat16"])
@torch.no_grad()
def test_keeping_all_changes_nothing(variant, rest):
    model = shared(variant)
    rows = prompts(model, RAGGED)
    plain, words = model(**batch(rows)).logits, generate(model, rows)[0]
    for recipe in (
        ts.Recipe(stages=(stage("encoder.0", "100%", rest=rest), stage("encoder.1", 10_000, rest=rest))),
        ts.Recipe.of(ToMe(metric="keys"), at="encoder.0..1", r=0, rest=rest),
    ):
        with ts.prune(model, recipe):
            assert torch.equal(model(**batch(rows)).logits, plain)
            assert torch.equal(generate(model, rows)[0], words)


@torch.no_grad()
def test_ways_of_generating():
    """Beams, sampling, static caches and no cache give what single runs and forwards give."""
    model = shared("sdpa")
    rows = prompts(model, RAGGED)
    recipe = ts.Recipe(stages=(*merging(0, 1), stage("decoder.2", 5)))
    with ts.prune(model, recipe) as run:
        words, logits, _ = generate(model, rows, suppress_tokens=[IMAGE])
        together = run.kept("encoder.1"), run.kept("decoder.2")
        for settings in ({"use_cache": False}, {"cache_implementation": "static", "disable_compile": True}):
            again, others, _ = generate(model, rows, **settings, suppress_tokens=[IMAGE])
            assert torch.equal(again, words)
            torch.testing.assert_close(others, logits, atol=1e-3, rtol=1e-3)
        for number, row in enumerate(rows):
            alone, single, _ = generate(model, [row], suppress_tokens=[IMAGE])
            assert torch.equal(alone[0], words[number])
            torch.testing.assert_close(single[0], logits[number], atol=1e-3, rtol=1e-3)
            assert torch.equal(run.kept("encoder.1")[0], together[0][number])
            assert torch.equal(run.kept("decoder.2")[0], together[1][number])
        beams = [model.generate(**batch([row]), max_new_tokens=4, num_beams=3, suppress_tokens=[IMAGE]) for row in rows]
        both = model.generate(**batch(rows), max_new_tokens=4, num_beams=3, suppress_tokens=[IMAGE])
        assert [both[i, -4:].tolist() for i in range(3)] == [one[0, -4:].tolist() for one in beams]
        assert len(run.kept("encoder.1")) == 3


WHOLE = (LlavaNextAdapter, LlavaOnevisionAdapter, Gemma3Adapter, AyaVisionAdapter)


@pytest.mark.parametrize("adapter", WHOLE, ids=lambda adapter: adapter.name)
@torch.no_grad()
def test_a_tower_that_must_hand_on_whole_grids(adapter):
    """Every patch is given the vector of the token that it became part of, and prompts keep their length."""
    model = randomize_weights(adapter.tiny())
    model.generation_config.eos_token_id = None
    made = Prompts(model, adapter(model))
    rows = [made.row([2, ("image", 1), 1, ("image", 2), 3], 0), made.row([4], 1), made.row([1, ("image", 3), 2], 2)]
    inputs = made.batch(rows)
    tower, towers = model.model.vision_tower, []

    def remember(module, args, kwargs, out):
        towers.append((args[0] if args else kwargs["pixel_values"], out))

    hook = tower.register_forward_hook(remember, with_kwargs=True)
    plan = {0: ("merge", 5), 1: ("merge", 4)}
    stages = (*merging(0, 0, r=5), *merging(1, 1, r=4))
    if adapter(model).encoder.num_prunable_blocks == 1:
        stages, plan = stages[:1], {0: ("merge", 5)}
    try:
        with ts.prune(model, ts.Recipe(stages=stages)) as run:
            out = model(**inputs)
    finally:
        hook.remove()
    assert run.latest.visual == run.latest.entering
    ((pixels, seen),) = towers
    kept = []
    chosen = getattr(model.config, "vision_feature_layer", None)
    for number, picture in enumerate(pixels):
        walk = walked(tower, picture, plan, len(tower.encoder.layers) + (0 if chosen is None else chosen + 1))
        right = torch.stack([*walk.x[: walk.prefix], *(walk.x[walk.prefix + walk.ids.index(o)] for o in walk.owner)])
        if chosen is None:
            # A SigLIP tower norms what it hands on at its end.
            found, right = seen.last_hidden_state[number], norm(right, tower.post_layernorm)
        else:
            found = seen.hidden_states[chosen][number]
        torch.testing.assert_close(found.double(), right, atol=2e-3, rtol=1e-3)
        kept.append(walk.ids)
    ledger = [ids.tolist() for ids in run.kept(str(stages[-1].at))]
    assert sum(map(len, ledger)) == sum(map(len, kept))
    assert ledger[1] == []
    n = int(walk.owner and len(walk.owner))
    flat = [[one % n for one in ids] for ids in ledger]
    assert flat[0] + flat[2] == [one for ids in kept for one in ids]
    assert out.logits.shape[1] == inputs["input_ids"].shape[1]
    with (
        pytest.raises(RefusedError, match="needs every patch"),
        ts.prune(model, ts.Recipe(stages=(stage("encoder.0", 4),))),
    ):
        pytest.fail("it was let in")


@torch.no_grad()
def test_paligemma_answers_as_by_hand():
    model = randomize_weights(PaliGemmaAdapter.tiny())
    made = Prompts(model, PaliGemmaAdapter(model))
    row = made.row([("image", 1), 4], 0)
    inputs = made.batch([row])
    stages, plan = PLANS["merge"]
    with ts.prune(model, ts.Recipe(stages=stages)) as run:
        out = model(**inputs).logits
    tower = model.model.vision_tower
    walk = walked(tower, inputs["pixel_values"][0], plan, len(tower.encoder.layers))
    assert run.kept("encoder.1")[0].tolist() == walk.ids
    words = inputs["input_ids"][0]
    places = torch.nonzero(words == made.decoder.modalities[0].placeholder_id).flatten()
    vectors = model.get_input_embeddings()(words)
    vectors[places[walk.ids]] = model.model.multi_modal_projector(norm(walk.x, tower.post_layernorm).float())
    gone = set(places.tolist()) - set(places[walk.ids].tolist())
    stays = torch.tensor([place for place in range(len(words)) if place not in gone])
    vectors, positions = vectors[stays][None], stays[None] + 1
    seen = torch.zeros(1, 1, vectors.shape[1], vectors.shape[1])
    hidden = model.model.language_model(inputs_embeds=vectors, position_ids=positions, attention_mask=seen)
    torch.testing.assert_close(out[0, -1], model.lm_head(hidden.last_hidden_state)[0, -1], atol=2e-3, rtol=1e-3)


@torch.no_grad()
def test_videos_of_another_tower_stay_whole():
    model = randomize_weights(VideoLlavaAdapter.tiny())
    made = Prompts(model, VideoLlavaAdapter(model))
    row = made.row([2, ("video", 5), 1, ("image", 1), 3], 0)
    with ts.prune(model, ts.Recipe(stages=merging(0, 1))) as run:
        out = model(**made.batch([row])).logits
        assert torch.equal(out, model(**made.batch([row])).logits)
    total = run.latest.visual[0]
    assert run.latest.entering == [total - 6]
    assert len(run.kept("encoder.1")[0]) == 10


@torch.no_grad()
def test_random_draws_by_picture():
    """Every picture draws for itself; with one picture a prompt, sample keys are theirs."""
    model = shared("sdpa")
    rows = prompts(model, [*ONE, *ONE])
    recipe = ts.Recipe.of(Random(), 5, at="encoder.1")
    with ts.prune(model, recipe, keys=[3, 4]) as run:
        model(**batch(rows))
        first, second = run.kept("encoder.1")
        assert first.tolist() != second.tolist()
    with ts.prune(model, recipe, keys=[4]) as run:
        model(**batch(rows[:1]))
        assert torch.equal(run.kept("encoder.1")[0], second)
    several = prompts(model, SEVERAL)
    with ts.prune(model, recipe, keys=[1]), pytest.raises(RefusedError, match="every image"):
        model(**batch(several))


@torch.no_grad()
def test_refusals():
    model = shared("sdpa")
    rows = prompts(model, ONE)
    with (
        pytest.raises(RefusedError, match=r"encoder\.2: \w+ has no such site; .*encoder\.0 \.\.\. encoder\.1"),
        ts.prune(model, ts.Recipe(stages=(stage("encoder.2", 4),))),
    ):
        pytest.fail("it was let in")
    inputs = batch(rows)
    encoded = model.model.get_image_features(inputs.pop("pixel_values"))
    with ts.prune(model, ts.Recipe(stages=merging(0, 1))):
        with pytest.raises(RefusedError, match="already encoded"):
            model(**inputs, mm_encoder_outputs={"image": encoded})
        with pytest.raises(RefusedError, match="tensor logits_to_keep"):
            model(**batch(rows), logits_to_keep=torch.tensor([1]))
        model(**batch(rows))
    other = llava(seed=5)
    checkpointing(other)
    with pytest.raises(RefusedError, match="gradient checkpointing"), ts.prune(other, ts.Recipe(stages=merging(0, 1))):
        pytest.fail("it was let in")
