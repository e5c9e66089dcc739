"""Pictures that are shared between calls: nothing is encoded twice, and nothing else is different.

Right is what the same model gives without sharing.
"""

import contextlib

import pytest
import torch

import tokensieve as ts
from tokensieve import Evidence, Keep, Ranker
from tokensieve.errors import RefusedError
from tokensieve.models.offers import VISION_EVIDENCE
from tokensieve.recipes.review import find_errors
from tokensieve.testing.footprint import footprint
from tokensieve.testing.prompts import Prompts, randomize_weights
from tokensieve_strategies import Norm, VisionZip

from .test_query import letters, two_towers

REGISTRY = ts.default_registry()
ABLE = tuple(
    name for name, kind in REGISTRY.adapters.items() if kind.refusal_reason is None and kind.decoder_type is not None
)
UNSHARED = {
    ("gemma4", "video"): "cannot be told apart",
    ("molmo2", "image"): "cannot be told apart",
    ("ovis2", "image"): "visual_indicator_features",
}
_made = {}


def made(name):
    """A family's tiny model and what makes prompts for it."""
    if name not in _made:
        kind = REGISTRY.adapters[name]
        model = randomize_weights(kind.tiny()).eval()
        _made[name] = model, Prompts(model, kind(model))
    return _made[name]


def asked(prompts, seeds, modality="image"):
    """A batch of prompts about one picture each: the same seed is the same picture, with other words around it."""
    return prompts.batch([prompts.row([2, (modality, s), 3 + i % 3], seed=i) for i, s in enumerate(seeds)])


def tower(model, decoder):
    """Every module outside the language model that computes something itself."""
    inside = set(decoder.language_model.modules())
    return [
        m for m in decoder.base_model.modules() if m not in inside and not list(m.children()) and list(m.parameters())
    ]


@contextlib.contextmanager
def counted(model, decoder):
    """Count how often anything of the tower or the projector runs."""
    calls = []
    handles = [m.register_forward_hook(lambda *_: calls.append(1)) for m in tower(model, decoder)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def close(a, b):
    return torch.testing.assert_close(a, b, atol=2e-4, rtol=2e-4)


# Encoders of each kind, and those that cannot be told apart; all families at night.
EVERY_DAY = ("gemma4", "idefics3", "llava", "llava_next", "molmo2", "ovis2", "pixtral", "qwen2_vl", "qwen3_vl")


@pytest.mark.parametrize(
    "name", [name if name in EVERY_DAY else pytest.param(name, marks=pytest.mark.nightly) for name in ABLE]
)
@torch.no_grad()
def test_every_family_answers_as_it_does_without(name):
    model, prompts = made(name)
    modalities = [modality.name for modality in prompts.decoder.modalities]
    for modality in modalities:
        # What the library itself leaves in a model that was called.
        model(**asked(prompts, (1,), modality))
    before = footprint(model)
    for modality in modalities:
        batches = [asked(prompts, seeds, modality) for seeds in ((1, 2, 1), (3,), (3, 1, 2, 3), (1, 2, 1))]
        right = [model(**batch).logits for batch in batches]
        with ts.share_vision(model) as sights, counted(model, prompts.decoder) as calls:
            found = [model(**batch).logits for batch in batches]
            calls.clear()
            again = [model(**batch).logits for batch in batches]
        for one, other in zip(found, right, strict=True):
            close(one, other)
        reason = UNSHARED.get((name, modality))
        if reason is None:
            # Three different pictures: each was encoded once, and the second time nothing of the tower ran.
            assert (sights.misses, sights.hits) == (3, 19)
            assert not calls
            assert all(map(torch.equal, again, found))
            assert not sights.bypassed
        else:
            assert calls
            assert (sights.misses, sights.hits) == (0, 0)
            assert [count for said, count in sights.bypassed.items() if reason in said] == [8]
            assert all(map(torch.equal, found, right))
        assert len(sights) == sights.held == 0
    assert footprint(model) == before


@torch.no_grad()
def test_the_same_batch_gives_the_same_bits():
    for name in ("llava", "qwen2_vl", "llava_next"):
        model, prompts = made(name)
        batch = asked(prompts, (1, 2, 3))
        right = model(**batch).logits
        with ts.share_vision(model):
            assert torch.equal(model(**batch).logits, right)
            assert torch.equal(model(**batch).logits, right)


def fitted(name, layers, adapter):
    """A shipped recipe with budgets and sites that a tiny model has; none where it cannot run on it."""
    recipe, stages, deep = ts.Recipe.load(name), [], 0
    for stage in recipe.stages:
        if stage.at.part == "encoder":
            return None
        deep += stage.at.block > 0
        at = ts.Site("decoder", deep)
        keep = stage.keep if stage.keep.auto else Keep.of(9 - 2 * len(stages))
        stages.append(stage.model_copy(update={"at": at}).with_keep(keep))
    recipe = recipe.replace(stages=tuple(stages), budgets={})
    return None if find_errors(recipe, adapter) else recipe


@pytest.mark.parametrize(
    "name", ["qwen2_vl", *(pytest.param(n, marks=pytest.mark.nightly) for n in ("llava", "llava_next"))]
)
@torch.no_grad()
def test_every_recipe_keeps_what_it_keeps_without(name):
    model, prompts = made(name)
    batches = [asked(prompts, seeds) for seeds in ((1, 2, 1), (3, 2))]
    fits = {one: fitted(one, len(prompts.decoder.layers), prompts.adapter) for one in sorted(REGISTRY.recipes)}
    recipes = {one: recipe for one, recipe in fits.items() if recipe is not None}
    assert len(recipes) > 20

    def run(recipe):
        with ts.prune(model, recipe) as run:
            logits = [model(**batch).logits for batch in batches]
        kept = [[sample.kept.tolist() for sample in stage.samples] for one in run.prefills for stage in one.stages]
        return kept, logits

    right = {one: run(recipe) for one, recipe in recipes.items()}
    with ts.share_vision(model) as sights:
        for _ in range(2):
            for one, recipe in recipes.items():
                kept, logits = run(recipe)
                assert kept == right[one][0], one
                for own, other in zip(logits, right[one][1], strict=True):
                    close(own, other)
            before = sights.misses
    # Once for features and once more for every kind of evidence that had not been asked for before.
    kinds = {kind for recipe in recipes.values() for stage in recipe.stages for kind in stage.needs & VISION_EVIDENCE}
    assert sights.misses == before <= 3 * (1 + len(kinds))
    assert not sights.bypassed


class Watching(Ranker):
    """Remembers what the tower showed."""

    name = "watching"
    kinds: tuple[str, ...]

    @property
    def needs(self):
        return frozenset(map(Evidence, self.kinds)) | {Evidence.FEATURES}

    def rank(self, tokens, depth):
        SEEN.append({kind: getattr(tokens, kind).clone() for kind in (*self.kinds, "features")})
        return ts.Chain.from_scores(tokens.universe, -tokens.ids.double(), self)


SEEN = []
KINDS = sorted(VISION_EVIDENCE)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "llava_next", "pixtral", "idefics3", "internvl"])
@torch.no_grad()
def test_evidence_of_the_tower_comes_from_memory(name):
    model, prompts = made(name)
    batch, mixed = asked(prompts, (1, 2, 3)), asked(prompts, (3, 1, 1))

    def seen(batch, *kinds):
        SEEN.clear()
        with ts.prune(model, Watching(kinds=kinds), keep=4):
            model(**batch)
        (values,) = SEEN
        return values

    right, right_mixed = seen(batch, *KINDS), seen(mixed, *KINDS)
    with ts.share_vision(model) as sights, counted(model, prompts.decoder) as calls:
        model(**batch)
        first = seen(batch, *KINDS[:2])
        assert sights.misses == 6
        seen(batch, *KINDS)
        assert sights.misses == 9
        calls.clear()
        whole, other = seen(batch, *KINDS), seen(mixed, *KINDS)
        assert not calls
        assert sights.misses == 9
    for kind, values in right.items():
        assert torch.equal(whole[kind], values), kind
        torch.testing.assert_close(other[kind], right_mixed[kind], atol=2e-4, rtol=2e-4)
    assert all(torch.equal(first[kind], right[kind]) for kind in first)


@torch.no_grad()
def test_a_partner_reads_the_selected_layer_and_questions_once():
    model, prompts = made("llava")
    tokenizer = letters()
    partner = two_towers(model)
    batch, mixed = asked(prompts, (1, 2, 1)), asked(prompts, (2, 1))
    texts = []
    handle = partner.text_model.register_forward_hook(lambda *_: texts.append(1))

    def kept(batch, query):
        with ts.prune(model, "trim", keep=9, query_encoder=(partner, tokenizer), query=query) as run:
            logits = model(**batch).logits
        return [ids.tolist() for ids in run.kept("decoder.0")], logits

    try:
        calls = [(batch, ["what", "who", "what"]), (mixed, ["who", "why"]), (batch, ["what", "who", "what"])]
        right = [kept(*call) for call in calls]
        texts.clear()
        with ts.share_vision(model) as sights, counted(model, prompts.decoder) as tower_calls:
            found = [kept(*call) for call in calls[:1]]
            tower_calls.clear()
            found += [kept(*call) for call in calls[1:]]
            assert not tower_calls
            assert len(texts) == 3
            # Other weights, other vectors.
            partner.text_model.final_layer_norm.bias.add_(0.0)
            kept(*calls[0])
            assert len(texts) == 5
    finally:
        handle.remove()
    assert sights.misses == 2
    for (ids, logits), (wanted, other) in zip(found, right, strict=True):
        assert ids == wanted
        close(logits, other)


@torch.no_grad()
def test_generation_with_beams_and_several_pictures():
    model, prompts = made("llava")
    rows = [prompts.row([2, ("image", 1), 1, ("image", 2), 3]), prompts.row([1, ("image", 2), 1, ("image", 1), 6])]
    batch = prompts.batch(rows)
    settings = {"max_new_tokens": 4, "num_beams": 2, "do_sample": False, "eos_token_id": None}
    right = model.generate(**batch, **settings)
    with ts.prune(model, VisionZip(), keep=5) as run:
        pruned, kept = model.generate(**batch, **settings), run.kept("decoder.0")
    with ts.share_vision(model) as sights:
        assert torch.equal(model.generate(**batch, **settings), right)
        assert (sights.misses, sights.hits) == (2, 2)
        for _ in range(2):
            with ts.prune(model, VisionZip(), keep=5) as run:
                assert torch.equal(model.generate(**batch, **settings), pruned)
            assert all(map(torch.equal, run.kept("decoder.0"), kept))
        assert sights.misses == 4


@torch.no_grad()
def test_stages_inside_the_tower_go_round_it():
    model, prompts = made("llava")
    batch = asked(prompts, (1, 2))
    recipe = ts.Recipe.loads(
        "stages: [{at: encoder.1, select: tome, keep: 20, rest: merge}, {at: decoder.0, select: cls, keep: 7}]"
    )
    plain = model(**batch).logits
    with ts.prune(model, recipe) as run:
        right, kept = model(**batch).logits, run.kept("decoder.0")
    with ts.share_vision(model) as sights:
        for _ in range(2):
            with ts.prune(model, recipe) as run:
                assert torch.equal(model(**batch).logits, right)
            assert all(map(torch.equal, run.kept("decoder.0"), kept))
            assert torch.equal(model(**batch).logits, plain)
        assert (sights.misses, sights.hits) == (2, 2)
        assert list(sights.bypassed) == ["the recipe has stages in the vision tower"]


@torch.no_grad()
def test_a_prune_inside_another_one():
    model, prompts = made("llava")
    batch = asked(prompts, (1, 2))
    with ts.prune(model, "cdpruner", keep=6):
        right = model(**batch).logits
    with ts.share_vision(model) as sights:
        with ts.prune(model, VisionZip(), keep=6):
            first = model(**batch).logits
            with ts.prune(model, "cdpruner", keep=6):
                assert torch.equal(model(**batch).logits, right)
            assert torch.equal(model(**batch).logits, first)
        assert sights.hits >= 2


@torch.no_grad()
def test_a_change_of_weights_or_config_is_noticed():
    model, prompts = made("llava")
    batch = asked(prompts, (1, 2))
    weight = model.model.vision_tower.encoder.layers[0].mlp.fc1.weight
    config = model.config
    with ts.share_vision(model) as sights:
        old = model(**batch).logits
        before = weight.clone()
        try:
            weight.mul_(1.5)
            changed = model(**batch).logits
        finally:
            weight.copy_(before)
        assert not torch.equal(changed, old)
        assert torch.equal(model(**batch).logits, old)
        swapped = torch.nn.Parameter(weight * 1.5)
        model.model.vision_tower.encoder.layers[0].mlp.fc1.weight = swapped
        try:
            assert torch.equal(model(**batch).logits, changed)
        finally:
            model.model.vision_tower.encoder.layers[0].mlp.fc1.weight = weight
        config.vision_feature_layer, layer = -3, config.vision_feature_layer
        try:
            assert not torch.equal(model(**batch).logits, old)
        finally:
            config.vision_feature_layer = layer
        assert torch.equal(model(**batch).logits, old)
        assert sights.forgotten == 5
        # The language model has no part in it.
        model.lm_head.weight.add_(0.0)
        model(**batch)
        assert sights.forgotten == 5


def test_gradients_go_through_the_tower():
    model, prompts = made("llava")
    batch, other, mixed = (asked(prompts, seeds) for seeds in ((1, 1), (5, 5), (5, 1)))
    weight = model.model.vision_tower.encoder.layers[0].mlp.fc1.weight
    with ts.share_vision(model) as sights:
        with torch.no_grad():
            model(**batch)
        model(**batch).logits.square().mean().backward()
        assert weight.grad is not None
        assert bool(weight.grad.any())
        model.zero_grad(set_to_none=True)
        assert any("gradients" in reason for reason in sights.bypassed)
        assert (sights.misses, sights.hits) == (1, 1)
        model.train()
        try:
            with torch.no_grad():
                model(**batch)
        finally:
            model.eval()
        assert sights.bypassed["the model is in training mode"] == 1
        # A frozen tower gives no gradients, so there is nothing to lose; the language model's own still come.
        with torch.inference_mode():
            model(**other)
        frozen = [
            one for part in ("vision_tower", "multi_modal_projector") for one in getattr(model.model, part).parameters()
        ]
        for one in frozen:
            one.requires_grad_(False)
        try:
            model(**mixed).logits.square().mean().backward()
            assert model.lm_head.weight.grad is not None
        finally:
            for one in frozen:
                one.requires_grad_(True)
            model.zero_grad(set_to_none=True)
        assert (sights.misses, sights.hits) == (2, 4)


@torch.no_grad()
def test_what_was_not_asked_for_the_longest_leaves_first():
    model, prompts = made("llava")
    one, two, three = (asked(prompts, (seed,)) for seed in (1, 2, 3))
    with ts.share_vision(model) as sights:
        model(**one)
        size = sights.held
    assert size == 36 * 48 * 4
    several = asked(prompts, (1, 2, 3))
    right = model(**several).logits
    with ts.share_vision(model, memory=2 * size) as sights:
        for batch in (one, two, one, three, one):
            model(**batch)
        assert (sights.misses, sights.hits, sights.evicted, len(sights)) == (3, 2, 1, 2)
        model(**two)
        assert (sights.misses, sights.hits, sights.evicted) == (4, 2, 2)
        # A batch of more pictures than there is room for.
        close(model(**several).logits, right)
        assert sights.held == 2 * size
    with ts.share_vision(model, memory=0) as sights:
        close(model(**several).logits, right)
        assert (len(sights), sights.held, sights.evicted) == (0, 0, 3)


@torch.no_grad()
def test_what_was_given_out_belongs_to_the_caller():
    model, prompts = made("llava")
    pixels = prompts.adapter.random_inputs(model, [[1], [2]])["pixel_values"]
    with ts.share_vision(model):
        first = model.model.get_image_features(pixels).pooler_output
        right = [one.clone() for one in first]
        for one in first:
            one.zero_()
        pixels_too = pixels.clone()
        assert all(map(torch.equal, model.model.get_image_features(pixels_too).pooler_output, right))
        # One number is another picture.
        pixels_too[0, 0, 0, 0] += 1
        assert not torch.equal(model.model.get_image_features(pixels_too).pooler_output[0], right[0])


@torch.no_grad()
def test_more_than_features_is_asked_of_the_encoder():
    model, prompts = made("llava")
    batch = asked(prompts, (1, 2))
    right = model(**batch, output_hidden_states=True)
    with ts.share_vision(model) as sights:
        found = model(**batch, output_hidden_states=True)
        raw = model.model.get_image_features(batch["pixel_values"], return_dict=False)
        deeper = model.model.get_image_features(batch["pixel_values"], vision_feature_layer=-3).pooler_output
        usual = model.model.get_image_features(batch["pixel_values"]).pooler_output
    assert isinstance(raw, tuple)
    assert sights.bypassed["more was asked of the encoder than features"] == 2
    assert not torch.equal(deeper[0], usual[0])
    assert all(map(torch.equal, found.hidden_states, right.hidden_states))


class Giving(ts.Scorer):
    """Gives up."""

    name = "giving"

    def score(self, tokens):
        raise KeyError("it gave up")


@torch.no_grad()
def test_nothing_is_left_behind():
    model, prompts = made("llava")
    batch = asked(prompts, (1, 2))
    right = model(**batch).logits
    before = footprint(model)
    with pytest.raises(KeyError, match="gave up"), ts.share_vision(model), ts.prune(model, Giving(), keep=3):
        model(**batch)
    assert footprint(model) == before
    both = ts.Stage(at="decoder.0", select=VisionZip(), keep=9), ts.Stage(at="decoder.1", select=Giving(), keep=3)
    recipe = ts.Recipe(stages=both)
    with ts.share_vision(model):
        with pytest.raises(KeyError), ts.prune(model, recipe):
            model(**batch)
        with pytest.raises(ts.TokensieveError), ts.prune(model, Norm(), keep=3):
            model(**batch | {"pixel_values": batch["pixel_values"][:1]})
        assert torch.equal(model(**batch).logits, right)
    with pytest.raises(ZeroDivisionError), ts.share_vision(model):
        raise ZeroDivisionError
    assert footprint(model) == before
    assert torch.equal(model(**batch).logits, right)


def test_what_cannot_be_shared_is_refused():
    model, _ = made("llava")
    before = footprint(model)
    with (
        ts.prune(model, Norm(), keep=3),
        pytest.raises(RefusedError, match="enter sharing first"),
        ts.share_vision(model),
    ):
        pass
    with ts.share_vision(model), pytest.raises(RefusedError, match="already"), ts.share_vision(model):
        pass
    with pytest.raises(RefusedError, match="no number of bytes"), ts.share_vision(model, memory=-1):
        pass
    tower = REGISTRY.adapters["timm_vit"].tiny()
    with pytest.raises(RefusedError, match="no language model"), ts.share_vision(tower):
        pass
    assert footprint(model) == before
    with ts.share_vision(model) as sights:
        assert "0 hits" in repr(sights)


@torch.no_grad()
def test_pictures_that_share_a_prompt_are_not_cut_into_tiles():
    model, prompts = made("llava_onevision")
    batch = prompts.batch([prompts.row([2, ("image", 1), 1, ("image", 2), 3])])
    right, alone = model(**batch).logits, asked(prompts, (1, 2))
    with ts.share_vision(model) as sights:
        model(**alone)
        assert torch.equal(model(**batch).logits, right)
    assert sum(sights.bypassed.values()) == 1


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_vl", "perception_lm"])
@torch.no_grad()
def test_pictures_and_videos_in_one_batch(name):
    model, prompts = made(name)
    rows = [[2, ("video", 1), 1], [1, ("image", 2), 2, ("video", 1), 1], [3, ("image", 2), 1], [4]]
    batch = prompts.batch([prompts.row(parts, seed=i) for i, parts in enumerate(rows)])
    with ts.prune(model, Norm(), keep=4) as run:
        right, kept = model(**batch).logits, run.kept("decoder.0")
    with ts.share_vision(model) as sights:
        for _ in range(2):
            with ts.prune(model, Norm(), keep=4) as run:
                close(model(**batch).logits, right)
            assert all(map(torch.equal, run.kept("decoder.0"), kept))
    assert not sights.bypassed
    assert (sights.misses, sights.hits) == (2, 6)
