"""Pruning before the vision tower: what is left is encoded alone, and the prompt is laid out for it."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tokensieve as ts
from tokensieve.engine.cache import cache_name
from tokensieve.errors import RefusedError
from tokensieve.testing.footprint import footprint
from tokensieve.testing.reference import MaskedReference

from . import packed
from .packed import close, kit_of, recipe, run, unharmed, window_of

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "qwen2_5_omni", "qwen3_omni_moe")
MORE = "  - {at: decoder.0, select: norm, keep: 2}\n"


@pytest.fixture(params=FAMILIES)
def kit(request):
    yield from unharmed(request.param)


@pytest.fixture
def qwen():
    yield from unharmed("qwen2_vl")


# What is computed


@torch.no_grad()
def test_all_kept_is_the_plain_model_to_the_bit(kit):
    inputs = kit.prompts.batch(kit.ragged_rows())
    plain = kit.model(**inputs).logits
    with ts.prune(kit.model, recipe("100%")):
        assert torch.equal(kit.model(**inputs).logits, plain)


def test_the_written_tower_is_the_tower(kit):
    """Of the whole picture, so that what follows compares with what the model means."""
    row = kit.row(("image", 1), 2, ("image", 3), seed=5)
    ids = range(len(kit.prompts.visual(row)))
    plain = kit.model(**kit.prompts.batch([row])).logits[0, -1]
    close(packed.logits(kit.prompts, row, ids), plain)


@pytest.mark.parametrize("positions", ["original", "compact"])
def test_logits_are_those_of_the_kept_patches_alone(kit, positions):
    rows = kit.ragged_rows()
    out, [kept], _ = run(kit, recipe(positions=positions), rows)
    for number, row in enumerate(rows):
        close(out[number], packed.logits(kit.prompts, row, kept[number], positions=positions), f"prompt {number}")


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=3),
    st.integers(0, 2),
    st.sampled_from(["1", "2", "1/2", "5"]),
    st.sampled_from(["image", "frame", "sample"]),
    st.integers(0, 99),
)
def test_any_set_of_any_pictures(images, videos, keep, per, key):
    kit = kit_of("qwen2_vl")
    parts = [part for seed in images for part in (("image", seed), 1)]
    row = kit.row(*parts, *[("video", 7)] * min(videos, 1), seed=key)
    rows = [row, kit.row(("image", 2), seed=key + 1)]
    out, [kept], _ = run(kit, recipe(keep, per=per), rows, keys=[key, key + 1])
    for number, one in enumerate(rows):
        close(out[number], packed.logits(kit.prompts, one, kept[number]), f"prompt {number} keeps {kept[number]}")


class Level(ts.Scorer):
    """Finds all tokens equal, so that the first ones stay."""

    name = "level_at_pixels"
    needs = frozenset()

    def score(self, tokens):
        return torch.zeros(tokens.valid.shape)


def test_a_frame_of_which_nothing_stays(qwen):
    """First tokens win ties: a video's later frame leaves altogether."""
    row = qwen.row(("video", 5), seed=4)
    made = ts.Recipe(stages=(ts.Stage(at="pixel.0", select=Level(), keep=2),))
    out, [[kept]], ledger = run(qwen, made, [row])
    assert kept == [0, 1]
    assert ledger.latest.stretches[0][1].frames == (8, 0)
    close(out[0], packed.logits(qwen.prompts, row, kept))


class Nothing(ts.Chooser):
    """Chooses the empty set."""

    name = "nothing_at_pixels"
    needs = frozenset()

    def choose(self, tokens):
        sizes = torch.zeros(len(tokens.valid), dtype=torch.int64)
        return ts.Chain.from_scores(tokens.universe, torch.zeros(tokens.valid.shape), self).fix(sizes)


def test_an_empty_set(qwen):
    """The tower cannot encode nothing, and the prompt loses all its visual tokens."""
    row = qwen.row(("image", 1), 2, ("image", 3), seed=4)
    made = ts.Recipe(stages=(ts.Stage(at="pixel.0", select=Nothing(), keep="auto"),))
    out, [[kept]], _ = run(qwen, made, [row])
    assert kept == []
    close(out[0], packed.logits(qwen.prompts, row, kept))


def test_a_picture_of_which_nothing_stays(qwen):
    """By a budget of the whole prompt, one picture keeps everything."""
    row = qwen.row(("image", 1), 2, ("image", 3), 1, ("image", 4), seed=6)
    size = [len(own) for own in packed.units_of(qwen.prompts, row)]
    out, [[kept]], _ = run(qwen, recipe(2, select="norm", per="sample"), [row])
    assert len(kept) == 2 < len(size)
    close(out[0], packed.logits(qwen.prompts, row, kept))


def test_batched_and_alone(kit):
    rows = kit.ragged_rows()
    out, [kept], _ = run(kit, recipe(select="norm"), rows)
    for number, row in enumerate(rows):
        alone, [[own]], _ = run(kit, recipe(select="norm"), [row])
        assert own == kept[number]
        close(out[number], alone[0])


def test_the_same_ids_as_at_decoder_0_where_the_judge_is_blind(qwen):
    """Random and even draws do not depend on features, so both sites keep the same; their features differ."""
    rows, keys = qwen.ragged_rows(), [3, 1, 4, 1]
    for select in ("random", "uniform"):
        _, [before], _ = run(qwen, recipe(select=select), rows, keys=keys)
        _, [after], _ = run(
            qwen,
            recipe(select=select).replace(
                stages=(recipe(select=select).stages[0].model_copy(update={"at": ts.Site.of("decoder.0")}),)
            ),
            rows,
            keys=keys,
        )
        assert before == after


def test_what_is_judged_is_pixels(qwen):
    """`norm` ranks units by the norms of their patches' pixels, read off the processor's output by hand."""
    row = qwen.row(("image", 1), 2, ("image", 3), seed=5)
    _, [[kept]], _ = run(qwen, recipe(2, select="norm"), [row])
    wanted, begin = [], 0
    for _, pixels, _ in packed.pictures_of(qwen.prompts, row):
        norms = [float(pixels[i : i + 4].double().norm()) for i in range(0, len(pixels), 4)]
        best = sorted(range(len(norms)), key=lambda i: (-norms[i], i))[:2]
        wanted += [begin + i for i in sorted(best)]
        begin += len(norms)
    assert kept == wanted


# What follows


def test_a_stage_behind_it_sees_only_what_is_left(kit):
    rows = kit.ragged_rows()
    out, [before, after], ledger = run(kit, recipe(4, more=MORE), rows)
    for number, row in enumerate(rows):
        assert set(after[number]) <= set(before[number])
        best = []
        for (_, pixels, grid), own in zip(
            packed.pictures_of(kit.prompts, row), packed.units_of(kit.prompts, row), strict=True
        ):
            units = [unit for unit, token in enumerate(own) if token in before[number]]
            norms = packed.encoded(kit.model, pixels, grid, units)[0].norm(dim=1).tolist()
            best += [own[units[i]] for i in sorted(range(len(units)), key=lambda i: -norms[i])[:2]]
        assert after[number] == sorted(best)
        close(out[number], packed.logits(kit.prompts, row, before[number], after[number]))
        assert ledger.latest.stages[1].samples[number].entered == len(before[number])


def test_a_stage_inside_the_language_model_behind_it(qwen):
    """What it sees is the plain model with the other tokens hidden, of which the tower never heard."""
    rows = qwen.ragged_rows()
    made = recipe("100%", more="  - {at: decoder.1, select: norm, keep: 2}\n")
    out, [_, after], _ = run(qwen, made, rows)
    for number, row in enumerate(rows):
        close(out[number], MaskedReference(qwen.prompts, row, {1: after[number]}, "original").logits())
    fewer = recipe(4, more="  - {at: decoder.1, select: norm, keep: 2}\n")
    _, [before, after], _ = run(qwen, fewer, rows)
    assert all(set(b) <= set(a) and (len(b) < len(a) or not a) for a, b in zip(before, after, strict=True))


class Watching(ts.Scorer):
    """Remembers what the tower showed."""

    name = "watching_keys"

    @property
    def needs(self):
        return frozenset({ts.Evidence.VISION_KEYS, ts.Evidence.VISION_FEATURES})

    def score(self, tokens):
        SEEN.append(tokens)
        return tokens.vision_keys.double().norm(dim=-1)


SEEN = []


def test_what_the_tower_shows_is_of_the_kept_patches(kit):
    """A stage behind it may read the tower: features of its last layer are those of the kept patches alone."""
    row = kit.row(("image", 1), 2, ("image", 3), seed=5)
    stages = (recipe(3).stages[0], ts.Stage(at="decoder.0", select=Watching(), keep=2, per="sample"))
    SEEN.clear()
    _, [[before], _], _ = run(kit, ts.Recipe(stages=stages), [row])
    tokens = SEEN[-1]
    assert tokens.ids[0].tolist() == before
    states = []
    hook = kit.model.model.visual.blocks[-1].register_forward_hook(lambda *of: states.append(of[2]))
    with torch.no_grad(), ts.prune(kit.model, recipe(3)):
        kit.model(**kit.prompts.batch([row]))
    hook.remove()
    assert len(states[0]) == 4 * len(before)
    held = dict(zip(sorted(before, key=partial(window_of, kit, row)), states[0].split(4), strict=True))
    close(tokens.vision_features[0], torch.stack([held[token].mean(dim=0) for token in before]))


# Generation


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("positions", ["original", "compact"])
@torch.no_grad()
def test_generation(kit, cached, positions):
    rows = kit.ragged_rows()
    with ts.prune(kit.model, recipe(3, positions=positions)) as ledger:
        out = kit.generate(rows, steps=3, use_cache=cached)
    words, seen = out.sequences[:, -3:], torch.stack(out.logits, dim=1)
    kept = ledger.kept("pixel.0")
    assert len(ledger.prefills) == 1
    for number, row in enumerate(rows):
        wanted, reference = packed.greedy(kit.prompts, row, 3, kept[number].tolist(), positions=positions)
        assert words[number].tolist() == wanted
        close(seen[number], reference)


@torch.no_grad()
def test_beams_and_a_static_cache(qwen):
    rows = qwen.ragged_rows()[:2]
    greedy = {}
    for name, options in {"plain": {}, "static": {"cache_implementation": "static", "disable_compile": True}}.items():
        with ts.prune(qwen.model, recipe(3)) as ledger:
            greedy[name] = torch.stack(qwen.generate(rows, steps=3, **options).logits, dim=1)
    close(greedy["static"], greedy["plain"])
    with ts.prune(qwen.model, recipe(3)) as ledger:
        beams = qwen.generate(rows, steps=1, num_beams=2)
    # The first step of every beam is that of greedy search.
    close(torch.stack(beams.logits, dim=1)[::2, 0], greedy["plain"][:, 0])
    assert [len(ids) for ids in ledger.kept("pixel.0")] == [3, 0]


@torch.no_grad()
def test_a_second_turn_on_the_cache(kit):
    """Words behind a pruned prompt see what is left of it, at the positions that follow the whole one."""
    row = kit.row(("image", 1), 2, ("image", 3), seed=5)
    inputs, more = kit.prompts.batch([row]), [5, 6, 7]
    with ts.prune(kit.model, recipe(3)) as ledger:
        first = kit.generate([row], steps=3)
        ids = torch.cat([first.sequences, torch.tensor([more])], dim=1)
        kinds = {
            name: torch.nn.functional.pad(value, (0, 6))
            for name, value in inputs.items()
            if name == "mm_token_type_ids"
        }
        held = {cache_name(kit.model): first[cache_name(kit.model)]}
        mask = torch.ones_like(ids)
        second = kit.model.generate(input_ids=ids, attention_mask=mask, **kinds, **held, **kit.settings(1))
    words = first.sequences[0, len(row.words) :].tolist()
    wanted = packed.logits(kit.prompts, row, ledger.prefills[0].stages[0].samples[0].kept.tolist(), new=words + more)
    close(second.logits[0][0], wanted)


@torch.no_grad()
def test_only_what_stays_is_encoded(qwen):
    """Every block of the tower gets the kept patches and no other, also where generate encodes beforehand."""
    rows, sizes = qwen.ragged_rows(), []
    hooks = [
        block.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
        for block in qwen.model.model.visual.blocks
    ]
    try:
        with ts.prune(qwen.model, recipe(2)) as ledger:
            qwen.generate(rows, steps=2)
    finally:
        for hook in hooks:
            hook.remove()
    kept = sum(len(ids) for ids in ledger.kept("pixel.0"))
    assert sum(sizes) == kept * 4 * len(hooks)


# What is refused, and what is left behind


ENCODED = "came already encoded"


@torch.no_grad()
def test_pictures_that_are_already_encoded_are_refused(qwen):
    inputs = qwen.prompts.batch([qwen.row(("image", 1), seed=1)])
    outputs = qwen.prompts.decoder.encode_visual_inputs(inputs)
    given_ = {name: value for name, value in inputs.items() if name != "pixel_values"}
    with ts.prune(qwen.model, recipe(3)):
        with pytest.raises(RefusedError, match=ENCODED):
            qwen.model(**given_, mm_encoder_outputs=outputs)
        # Encoded inside, but by a call that knows no prompt: as ever, and no part of one.
        alone = qwen.model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True)
        assert torch.equal(alone.pooler_output[0], outputs["image"].pooler_output[0])
        with pytest.raises(RefusedError, match=ENCODED):
            qwen.model(**given_, mm_encoder_outputs={"image": alone})
        # And what was refused is forgotten.
        qwen.model(**inputs)


@torch.no_grad()
def test_prompts_that_do_not_fit_their_pictures_are_refused(qwen):
    inputs = qwen.prompts.batch([qwen.row(("image", 1), seed=1)])
    more = torch.cat([inputs["input_ids"], inputs["input_ids"]], dim=1)
    with ts.prune(qwen.model, recipe(3)), pytest.raises(RefusedError, match="placeholders"):
        qwen.model(**inputs | {"input_ids": more, "attention_mask": torch.ones_like(more)})


def test_merging_is_refused(qwen):
    made = ts.Recipe.loads("stages: [{at: pixel.0, select: norm, keep: 3, rest: merge}]")
    with pytest.raises(RefusedError, match="would have to be encoded first"):
        ts.prune(qwen.model, made)


def test_other_families_say_why():
    registry, reasons = ts.default_registry(), {}
    for name, cls in registry.adapters.items():
        if cls.refusal_reason is None and cls.packed_tower_type is None:
            [finding] = [one for one in ts.review(recipe(3), cls(cls.tiny())) if one.level == "error"]
            assert cls.pixel_refusal in finding.message
            assert "it offers" in finding.message
            reasons.setdefault(cls.pixel_refusal, []).append(name)
    assert "llava" in reasons["its vision tower takes whole pictures, so that no patch can be left out before it"]
    assert len(reasons) > 1


def test_an_error_leaves_nothing(qwen):
    class Broken(ts.Scorer):
        name = "broken_at_pixels"
        needs = frozenset({ts.Evidence.FEATURES})

        def score(self, tokens):
            raise ZeroDivisionError

    row = qwen.row(("image", 1), seed=1)
    before = footprint(qwen.model)
    made = ts.Recipe(stages=(ts.Stage(at="pixel.0", select=Broken(), keep=3),))
    for call in (lambda: qwen.generate([row]), lambda: qwen.model(**qwen.prompts.batch([row]))):
        with pytest.raises(ZeroDivisionError), ts.prune(qwen.model, made):
            call()
        assert footprint(qwen.model) == before


@torch.no_grad()
def test_a_vision_cache_is_passed_by(qwen):
    rows = qwen.ragged_rows()
    plain = qwen.model(**qwen.prompts.batch(rows)).logits
    wanted, _, _ = run(qwen, recipe(3), rows)
    with ts.share_vision(qwen.model) as cache:
        found, _, _ = run(qwen, recipe(3), rows)
        again, _, _ = run(qwen, recipe(3), rows)
        assert len(cache) == 0
        assert set(cache.bypassed) == {"the recipe has a stage before the vision tower"}
        close(qwen.model(**qwen.prompts.batch(rows)).logits, plain)
        assert len(cache) > 0
        after, _, _ = run(qwen, recipe(3), rows)
    for one in (found, again, after):
        assert torch.equal(one, wanted)


@torch.no_grad()
def test_a_prune_inside_another(qwen):
    rows = qwen.ragged_rows()
    wanted, _, _ = run(qwen, recipe(3), rows)
    plain = qwen.model(**qwen.prompts.batch(rows)).logits
    with ts.prune(qwen.model, recipe(3)):
        with ts.prune(qwen.model, recipe("100%")):
            assert torch.equal(qwen.model(**qwen.prompts.batch(rows)).logits, plain)
        assert torch.equal(qwen.model(**qwen.prompts.batch(rows)).logits[:, -1], wanted)


def test_gradients_reach_the_tower(qwen):
    """Of what stays alone: fine-tuning under a recipe trains the tower on the kept patches."""
    row = qwen.row(("image", 1), seed=1)
    inputs = qwen.prompts.batch([row])
    with ts.prune(qwen.model, recipe(3)):
        out = qwen.model(**inputs | {"pixel_values": inputs["pixel_values"].clone().requires_grad_()}).logits
    weight = qwen.model.model.visual.patch_embed.proj.weight
    [grad] = torch.autograd.grad(out[:, -1].sum(), [weight])
    assert bool(grad.abs().sum() > 0)
