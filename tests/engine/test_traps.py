"""What went wrong when pruning was first built on this library: each trap has a test that would fall into it."""

import copy
from dataclasses import replace

import pytest
import torch
from transformers.masking_utils import create_causal_mask

import tokensieve as ts
from tokensieve.errors import RefusedError
from tokensieve.testing.footprint import footprint
from tokensieve.testing.prompts import Prompts, randomize_weights
from tokensieve_adapters.idefics3 import Idefics3Adapter
from tokensieve_adapters.llava_next import LlavaNextAdapter
from tokensieve_adapters.paligemma import PaliGemma2Adapter
from tokensieve_adapters.qwen2_vl import Qwen2VLAdapter
from tokensieve_adapters.qwen3_vl import Qwen3VLAdapter
from tokensieve_strategies import Norm, ToMe

from .models import IMAGE, ONE, RAGGED, batch, generate, llava, prompts, shared

HALF = ts.Recipe.of(Norm(), 5)
DEEP = ts.Recipe.of(Norm(), 5, at="decoder.2")


def near(a, b, atol=1e-4):
    torch.testing.assert_close(a, b, atol=atol, rtol=1e-3)


@pytest.mark.parametrize("recipe", [HALF, DEEP], ids=["before", "inside"])
@torch.no_grad()
def test_1_gaps_in_positions_are_not_packed_sequences(recipe):
    """Without a mask and without a cache, positions with gaps are read as several sequences in one."""
    model = shared("sdpa")
    inputs = batch(prompts(model, ONE))
    with ts.prune(model, recipe):
        right = model(**inputs, use_cache=True).logits
        inputs.pop("attention_mask")
        near(model(**inputs, use_cache=False).logits, right)
    # The trap itself: the same positions, handed to the library without a mask, cut attention in pieces.
    gaps = torch.tensor([[0, 1, 2, 9, 10, 11]])
    vectors = torch.randn(1, 6, model.config.text_config.hidden_size)
    mask = create_causal_mask(model.config.text_config, vectors, None, None, position_ids=gaps)
    assert mask is not None
    assert not bool(mask[0, 0, 5, 0])


@torch.no_grad()
def test_2_layers_are_told_positions_without_gaps_to_misread():
    """Kernels for packed sequences look at position_ids of layers: with compact positions there are no gaps."""
    model, seen = shared("sdpa"), []
    hook = model.model.language_model.layers[-1].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["position_ids"]), with_kwargs=True
    )
    try:
        with ts.prune(model, HALF.replace(positions="compact")):
            model(**batch(prompts(model, ONE)))
    finally:
        hook.remove()
    assert (seen[0].diff() == 1).all()


@torch.no_grad()
def test_3_a_full_length_mask_does_not_fit_a_shorter_cache():
    """`generate` passes masks as long as the unpruned prompt; cut on the right, they would hide the wrong columns."""
    model = shared("sdpa")
    rows = prompts(model, RAGGED)
    with ts.prune(model, HALF):
        words, logits, _ = generate(model, rows, suppress_tokens=[IMAGE])
        for number, row in enumerate(rows):
            alone, single, _ = generate(model, [row], suppress_tokens=[IMAGE])
            assert torch.equal(alone[0], words[number])
            near(single[0, :, :IMAGE], logits[number, :, :IMAGE])


@torch.no_grad()
def test_4_a_step_without_positions_goes_on_where_the_unpruned_prompt_ended():
    """With positions of several axes, the library would count from what the cache holds."""
    model = randomize_weights(Qwen2VLAdapter.tiny())
    made = Prompts(model, Qwen2VLAdapter(model))
    row = made.row([2, ("image", 1), 4], 0)
    inputs = made.batch([row])
    with ts.prune(model, HALF) as run:
        first = model(**inputs, use_cache=True)
        cache = next(value for key, value in first.items() if hasattr(value, "get_seq_length"))
        name = next(key for key, value in first.items() if value is cache)
        step = model(input_ids=torch.tensor([[7]]), **{name: cache}).logits[0, -1]
        longer = made.batch([replace(row, words=(*row.words, 7))])
        whole = model(**longer).logits[0, -1]
    assert len(run.kept("decoder.0")[0]) == 5
    near(step, whole)


@pytest.mark.parametrize("first", [True, False], ids=["hooked before", "hooked after"])
@torch.no_grad()
def test_5_what_a_tower_hands_on_is_what_its_hidden_states_show(first):
    """The library's own hooks, made on first use, must see what leaves a layer under prune, whoever came first."""
    model = llava(seed=3)
    fresh = copy.deepcopy(model)
    inputs = batch(prompts(model, ONE))
    recipe = ts.Recipe.of(ToMe(metric="keys"), at="encoder.0..1", r=3, rest="merge")
    used = model if first else fresh
    if first:
        used.model.vision_tower(inputs["pixel_values"], output_hidden_states=True)
    with ts.prune(used, recipe):
        states = used.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states
        features = used.model.get_image_features(inputs["pixel_values"]).pooler_output[0]
        chosen = states[used.config.vision_feature_layer][0, 1:]
        near(used.model.multi_modal_projector(chosen), features)
        # Merged patches share a vector.
        assert len(torch.unique(chosen, dim=0)) == 10


@torch.no_grad()
def test_6_hooks_of_the_library_are_its_own():
    """What the library leaves in a model on first use is neither ours nor counted as ours."""
    model = LlavaNextAdapter.tiny()
    made = Prompts(randomize_weights(model), LlavaNextAdapter(model))
    inputs = made.batch([made.row([2, ("image", 1), 3], 0)])
    with ts.prune(model, HALF):
        model(**inputs, output_hidden_states=True)
    after = footprint(model)
    with ts.prune(model, HALF):
        model(**inputs, output_hidden_states=True)
    assert footprint(model) == after


def test_7_layers_to_which_the_tower_still_adds_are_refused():
    model = Qwen3VLAdapter.tiny()
    inside = ts.Recipe.of(Norm(), 3, at="decoder.1")
    with pytest.raises(RefusedError, match=r"decoder\.2 and deeper"), ts.prune(model, inside):
        pytest.fail("it was let in")


def tensors(output):
    values = [value for value in output.values() if value is not None]
    parts = (part for value in values for part in (value if isinstance(value, (list, tuple)) else [value]))
    return [part for part in parts if part is not None]


@torch.no_grad()
def test_8_what_is_encoded_already_is_not_changed():
    """`generate` keeps encoded pictures and hands them over again."""
    model = shared("sdpa")
    inputs = batch(prompts(model, ONE))
    encoded = {"image": model.model.get_image_features(inputs.pop("pixel_values"))}
    before = copy.deepcopy(encoded)
    for recipe in (HALF, DEEP, ts.Recipe.of(Norm(), 5, rest="merge")):
        with ts.prune(model, recipe):
            model(**inputs, mm_encoder_outputs=encoded)
            model.generate(**inputs, mm_encoder_outputs=encoded, max_new_tokens=2, use_cache=False)
        assert set(encoded) == {"image"}
        assert all(map(torch.equal, tensors(before["image"]), tensors(encoded["image"])))


@torch.no_grad()
def test_9_beams_are_copies_of_prompts_and_selected_once():
    """Beams expand prompts before the prefill; tokens of a prompt's copies are those of the prompt."""
    model = shared("sdpa")
    rows = prompts(model, RAGGED)
    with ts.prune(model, HALF) as run:
        model.generate(**batch(rows), max_new_tokens=2, num_beams=3, suppress_tokens=[IMAGE])
        beams = [ids.tolist() for ids in run.kept("decoder.0")]
        model.generate(**batch(rows), max_new_tokens=2)
    assert beams == [ids.tolist() for ids in run.kept("decoder.0")]
    assert len(run.prefills) == 2


@torch.no_grad()
def test_10_a_generated_placeholder_is_a_word():
    """Placeholders stand for pictures only in a call that brings some."""
    model = shared("sdpa")
    inputs = batch(prompts(model, ONE))
    with ts.prune(model, HALF) as run:
        out = model(**inputs, use_cache=True)
        cache = next(value for value in out.values() if hasattr(value, "get_seq_length"))
        name = next(key for key, value in out.items() if value is cache)
        model(input_ids=torch.tensor([[IMAGE]]), **{name: cache})
    assert run.latest.visual == [16]
    assert len(run.prefills) == 1


@pytest.mark.parametrize(
    "first",
    [pytest.param(True, marks=pytest.mark.nightly, id="compiled before"), pytest.param(False, id="compiled inside")],
)
@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace:UserWarning")
@torch.no_grad()
def test_11_compiled_layers_honour_hooks(first):
    """Compiled before the block or in it, layers are pruned."""
    plain, compiled = llava(seed=4), llava(seed=4)
    inputs = batch(prompts(plain, ONE))

    def compile_layers():
        for layer in compiled.model.language_model.layers:
            layer.compile(backend="eager")

    try:
        if first:
            compile_layers()
            compiled(**inputs)
        with ts.prune(plain, DEEP), ts.prune(compiled, DEEP) as run:
            if not first:
                compile_layers()
            near(compiled(**inputs).logits, plain(**inputs).logits)
        assert len(run.kept("decoder.2")[0]) == 5
    finally:
        torch.compiler.reset()


def test_12_placeholders_have_one_name():
    """`image_token_id` is an alias in many configs; the adapters read no other name."""
    registry = ts.default_registry()
    for name, cls in registry.adapters.items():
        adapter = cls(cls.tiny())
        if adapter.decoder is not None:
            kinds = {modality.name: modality.placeholder_id for modality in adapter.decoder.modalities}
            assert kinds["image"] == adapter.model.config.image_token_id, name


@torch.no_grad()
def test_13_names_and_kinds_of_attention_that_differ():
    """Idefics3 calls its language model `text_model`; Gemma 2 is not refused for having no sdpa of its own."""
    idefics = Idefics3Adapter(Idefics3Adapter.tiny())
    assert idefics.decoder.language_model is idefics.model.model.text_model
    model = randomize_weights(PaliGemma2Adapter.tiny())
    made = Prompts(model, PaliGemma2Adapter(model))
    with ts.prune(model, HALF) as run:
        model(**made.batch([made.row([("image", 1), 4], 0)]))
    assert len(run.kept("decoder.0")[0]) == 5
