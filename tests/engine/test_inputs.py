"""What a call may bring besides words and pixels, and which calls are refused."""

import gc
import weakref

import pytest
import torch
import transformers
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, StaticCache

import tokensieve as ts
from tokensieve.errors import RefusedError, UnsupportedModelError
from tokensieve.testing.footprint import footprint
from tokensieve_adapters.llava import LlavaAdapter
from tokensieve_strategies import QCSP, FastV, Norm

from .models import CACHE, IMAGE, ONE, RAGGED, SEVERAL, batch, checkpointing, generate, llava, patches, prompts, shared
from .reference import Cut, Plain, Written, attended, judged, norms

K = 4


def at(*blocks, select=None, positions="original"):
    stages = tuple(ts.Stage(at=f"decoder.{b}", select=Norm() if select is None else select, keep=K) for b in blocks)
    return ts.Recipe(stages=stages, positions=positions)


# Masks


def ready_made(mask, dtype):
    """The 4-D mask of left-padded prompts, as the library would make it."""
    rows, n = mask.shape
    seen = torch.ones(n, n, dtype=torch.bool).tril() & mask.bool()[:, None, None, :]
    # A place of padding has to look at something.
    seen = seen | torch.eye(n, dtype=torch.bool)
    return seen if dtype == torch.bool else torch.zeros(rows, 1, n, n).masked_fill(~seen, torch.finfo(dtype).min)


@pytest.mark.parametrize(
    ("variant", "dtype"), [("sdpa", torch.bool), ("sdpa", torch.float32), ("eager", torch.float32)]
)
@pytest.mark.parametrize("blocks", [(0,), (2,), (0, 2)], ids=str)
@torch.no_grad()
def test_a_ready_made_mask_is_that_of_the_prompts(variant, dtype, blocks):
    model = shared(variant)
    inputs = batch(prompts(model, RAGGED))
    whole = ready_made(inputs["attention_mask"], dtype)
    with ts.prune(model, at(*blocks)) as run:
        right = model(**inputs, logits_to_keep=1).logits
        kept = run.kept(f"decoder.{blocks[-1]}")
        logits = model(**inputs | {"attention_mask": whole}, logits_to_keep=1).logits
    torch.testing.assert_close(logits, right, atol=1e-4, rtol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(kept, run.kept(f"decoder.{blocks[-1]}"), strict=True))


@pytest.mark.parametrize("kind", [torch.bool, torch.int32, torch.float32])
@pytest.mark.parametrize("blocks", [(0,), (2,)], ids=str)
@torch.no_grad()
def test_a_mask_of_any_numbers(kind, blocks):
    model = shared("sdpa")
    inputs = batch(prompts(model, RAGGED))
    with ts.prune(model, at(*blocks)):
        right = model(**inputs).logits
        assert torch.equal(model(**inputs | {"attention_mask": inputs["attention_mask"].to(kind)}).logits, right)


@pytest.mark.parametrize("blocks", [(0,), (2,)], ids=str)
@torch.no_grad()
def test_no_mask_is_a_mask_of_ones(blocks):
    model = shared("sdpa")
    inputs = batch(prompts(model, SEVERAL))
    with ts.prune(model, at(*blocks)):
        right = model(**inputs).logits
        inputs.pop("attention_mask")
        torch.testing.assert_close(model(**inputs).logits, right, atol=1e-5, rtol=1e-5)


# Words and positions


@pytest.mark.parametrize("blocks", [(0,), (2,), (0, 2)], ids=str)
def test_generation_from_embeddings_and_images(blocks):
    model = shared("sdpa")
    inputs = batch(prompts(model, RAGGED))
    settings = {"do_sample": False, "max_new_tokens": 5}
    with ts.prune(model, at(*blocks)) as run:
        words = model.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :]
        kept = run.kept(f"decoder.{blocks[-1]}")
        embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
        assert torch.equal(model.generate(**inputs, inputs_embeds=embeds, **settings), words)
    assert len(run.prefills) == 2
    assert all(torch.equal(a, b) for a, b in zip(kept, run.kept(f"decoder.{blocks[-1]}"), strict=True))


@torch.no_grad()
def test_positional_arguments():
    model = shared("sdpa")
    inputs = batch(prompts(model, ONE))
    with ts.prune(model, at(0)):
        right = model(**inputs).logits
        assert torch.equal(model(inputs["input_ids"], inputs["pixel_values"], inputs["attention_mask"]).logits, right)
        first = model.generate(
            inputs["input_ids"], pixel_values=inputs["pixel_values"], max_new_tokens=2, do_sample=False
        )
        assert torch.equal(
            model.generate(
                inputs=inputs["input_ids"], pixel_values=inputs["pixel_values"], max_new_tokens=2, do_sample=False
            ),
            first,
        )


@pytest.mark.parametrize("blocks", [(0,), (2,)], ids=str)
@torch.no_grad()
def test_positions_of_the_callers_own(blocks):
    """Rotary positions count as distances, so a start of their own changes nothing, and a stretch does."""
    model = shared("sdpa")
    inputs = batch(prompts(model, ONE))
    places = torch.arange(inputs["input_ids"].shape[1])[None]
    with ts.prune(model, at(*blocks)):
        right = model(**inputs).logits
        later = model(**inputs, position_ids=places + 7).logits
        wider = model(**inputs, position_ids=places * 3).logits
    torch.testing.assert_close(later, right, atol=1e-4, rtol=1e-4)
    assert (wider - right).abs().max() > 0.1


@torch.no_grad()
def test_chosen_places_inside_the_model():
    model = shared("sdpa")
    inputs = batch(prompts(model, RAGGED))
    with ts.prune(model, at(2)):
        whole = model(**inputs).logits
        chosen = model(**inputs, logits_to_keep=torch.tensor([3, 11])).logits
    torch.testing.assert_close(chosen, whole[:, [3, 11]], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_hidden_states_and_attentions_have_the_length_of_what_stays():
    model = shared("eager")
    row = prompts(model, ONE)[0]
    with ts.prune(model, at(1, 3)):
        out = model(**batch([row]), output_hidden_states=True, output_attentions=True)
    n = len(row.words)
    fewer = n - patches(model) + K
    assert [a.shape[-1] for a in out.attentions] == [n, fewer, fewer, fewer]
    assert out.hidden_states[0].shape[1] == out.hidden_states[-1].shape[1] == n
    trace = Written(model).forward(row, {b: Cut(K, norms) for b in (1, 3)})
    for ours, right in zip(out.attentions, trace.attention, strict=True):
        torch.testing.assert_close(ours[0].double(), right, atol=1e-4, rtol=1e-3)


# Numbers of half width


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("blocks", [(0,), (2,), (0, 2)], ids=str)
def test_half_width(dtype, blocks):
    model = llava(dtype=dtype)
    wide = shared("sdpa")
    rows = prompts(model, RAGGED)
    same = prompts(wide, RAGGED)
    with ts.prune(model, at(*blocks, select=None if 0 in blocks else FastV())) as run:
        _, logits, _ = generate(model, rows)
    assert logits.isfinite().all()
    for number, (row, seen) in enumerate(zip(same, logits, strict=True)):
        cuts = {int(s.site.split(".")[1]): Cut(kept=set(s.samples[number].kept.tolist())) for s in run.latest.stages}
        right = Written(wide).forward(row, cuts).logits
        assert (seen[0].double() - right).abs().max() < 0.15 * right.abs().max()
        assert [len(s.samples[number].kept) for s in run.latest.stages] == [K * row.images] * len(blocks)


# Training


def test_gradient_checkpointing_before_the_model():
    model = llava(seed=8)
    row = prompts(model, ONE)[0]
    inputs = batch([row])
    weight = model.model.language_model.layers[1].mlp.up_proj.weight
    with ts.prune(model, at(0)):
        right = torch.autograd.grad(model(**inputs).logits.square().mean(), weight)[0]
        checkpointing(model, {"use_reentrant": False})
        model.train()
        ours = torch.autograd.grad(model(**inputs, use_cache=False).logits.square().mean(), weight)[0]
    torch.testing.assert_close(ours, right, atol=1e-4, rtol=1e-4)


# Compiled parts


@pytest.mark.parametrize("blocks", [(0,), (2,)], ids=str)
@torch.no_grad()
def test_a_compiled_part(blocks):
    model, rows = llava(seed=8), None
    rows = prompts(model, ONE)
    with ts.prune(model, at(*blocks)):
        right = model(**batch(rows)).logits
    for part in (model.model.multi_modal_projector, *(layer.mlp for layer in model.model.language_model.layers)):
        part.compile(backend="eager")
    with ts.prune(model, at(*blocks)):
        torch.testing.assert_close(model(**batch(rows)).logits, right, atol=1e-5, rtol=1e-5)


# Caches


@pytest.mark.parametrize("blocks", [(0,), (2,), (0, 2)], ids=str)
@pytest.mark.parametrize("positions", ["original", "compact"])
@torch.no_grad()
def test_a_cache_can_be_used_again(blocks, positions):
    model = shared("sdpa")
    rows, others = prompts(model, RAGGED), prompts(model, RAGGED, seed=5)
    for cache in (DynamicCache(config=model.config), StaticCache(config=model.config, max_cache_len=96)):
        with ts.prune(model, at(*blocks, positions=positions)):
            right, right_logits, _ = generate(model, others)
            generate(model, rows, **{CACHE: cache}, disable_compile=True)
            cache.reset()
            words, logits, _ = generate(model, others, **{CACHE: cache}, disable_compile=True)
        assert torch.equal(words, right)
        torch.testing.assert_close(logits, right_logits, atol=1e-4, rtol=1e-4)
        # Without a prune it is an ordinary cache again, too.
        plain = generate(model, rows)[0]
        cache.reset()
        assert torch.equal(generate(model, rows, **{CACHE: cache}, disable_compile=True)[0], plain)


@torch.no_grad()
def test_a_length_is_that_of_the_unpruned_prompt():
    model = shared("sdpa")
    row = prompts(model, ONE)[0]
    for blocks in ((0,), (2,), (0, 2)):
        with ts.prune(model, at(*blocks)):
            cache = model(**batch([row]), use_cache=True)[CACHE]
            model(input_ids=torch.tensor([[5, 6]]), **{CACHE: cache})
        assert {cache.get_seq_length(layer) for layer in range(4)} == {len(row.words) + 2}


def test_a_cropped_cache_goes_on_where_it_was_cut():
    model = shared("sdpa")
    row = prompts(model, ONE)[0]
    for recipe in (at(0), at(2), at(0, 2, positions="compact")):
        with ts.prune(model, recipe), torch.no_grad():
            cache = model(**batch([row]), use_cache=True)[CACHE]
            right = model(input_ids=torch.tensor([[5]]), **{CACHE: cache}).logits
            model(input_ids=torch.tensor([[6, 7]]), **{CACHE: cache})
            cache.crop(-3)
            torch.testing.assert_close(
                model(input_ids=torch.tensor([[5]]), **{CACHE: cache}).logits, right, atol=1e-5, rtol=1e-5
            )


# The ledger


def test_a_plugin_hears_of_every_stage():
    heard = []

    class Listener:
        @ts.hookimpl
        def stage_settled(self, run, stage):
            heard.append((run, stage.site, [len(sample.kept) for sample in stage.samples]))

    registry = ts.default_registry()
    registry.register(Listener(), "listener")
    model = shared("sdpa")
    with ts.prune(model, at(0, 2), registry=registry) as run:
        generate(model, prompts(model, RAGGED))
    assert heard == [(run, "decoder.0", [4, 0, 8]), (run, "decoder.2", [4, 0, 8])]


def test_a_model_is_not_kept_alive():
    model = llava(seed=8)
    with ts.prune(model, at(0, 2, select=Norm())) as run:
        generate(model, prompts(model, ONE))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert len(run.kept("decoder.2")[0]) == K


# Refusals


class Unknown(DynamicCache.__mro__[1]):
    """A cache of some other kind."""


@torch.no_grad()
def test_caches_of_unknown_kinds():
    model = shared("sdpa")
    unknown = Unknown(layer_class_to_replicate=type(DynamicCache(config=model.config).layers[0]))
    with ts.prune(model, at(0)) as run, pytest.raises(RefusedError, match="Unknown"):
        model(**batch(prompts(model, ONE)), **{CACHE: unknown})
    assert not run.prefills


@pytest.mark.parametrize("call", ["generate", "forward"])
@torch.no_grad()
def test_images_on_a_cache_that_holds_something(call):
    model = shared("sdpa")
    text, row = prompts(model, [[5], *ONE])
    cache = model(**batch([text]), use_cache=True)[CACHE]
    inputs = batch([row])
    if call == "generate":
        # All of the conversation, as generation wants it.
        inputs["input_ids"] = torch.tensor([[*text.words, *row.words]])
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["max_new_tokens"] = 2
    with ts.prune(model, at(0)) as run, pytest.raises(RefusedError, match="already holds 6 tokens"):
        (model.generate if call == "generate" else model)(**inputs, **{CACHE: cache})
    assert not run.prefills


@pytest.mark.parametrize(
    "given", [{"keys": [1, 2]}, {"query": ["a", "b"], "processor": object()}], ids=["keys", "query"]
)
@pytest.mark.parametrize("layouts", [ONE, [[4]]], ids=["image", "text"])
@torch.no_grad()
def test_one_for_each_prompt_is_checked_before_images_are_encoded(given, layouts):
    model = shared("sdpa")
    ran = []
    handle = model.model.vision_tower.register_forward_pre_hook(lambda *_: ran.append(1))
    try:
        with ts.prune(model, at(0), **given) as run, pytest.raises(RefusedError, match="batch of 1 prompts"):
            model(**batch(prompts(model, layouts)))
    finally:
        handle.remove()
    assert not run.prefills
    assert not ran


@torch.no_grad()
def test_a_part_of_an_image():
    """As many placeholders as features, but dealt wrongly to the rows."""
    model = shared("sdpa")
    width = patches(model)
    rows = prompts(model, [[2, IMAGE], [2, IMAGE]])
    words = [[1, 5, *[IMAGE] * (width - 3), 6, 6, 6], [1, 5, *[IMAGE] * (width + 3)]]
    inputs = {
        "input_ids": torch.tensor([[0] * (width + 5 - len(w)) + w for w in words]),
        "pixel_values": torch.cat([row.pixels for row in rows]),
    }
    with ts.prune(model, at(0)) as run, pytest.raises(RefusedError, match="no whole number of images"):
        model(**inputs)
    assert not run.prefills


@torch.no_grad()
def test_images_without_words():
    model = shared("sdpa")
    with ts.prune(model, at(0)), pytest.raises(RefusedError, match="input_ids or inputs_embeds"):
        model(pixel_values=prompts(model, ONE)[0].pixels)


@torch.no_grad()
def test_a_question_in_a_prompt_of_embeddings():
    model = shared("sdpa")
    inputs = batch(prompts(model, ONE))
    embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
    with ts.prune(model, at(0, select=QCSP())) as run, pytest.raises(RefusedError, match="query= and processor="):
        model(**inputs, inputs_embeds=embeds)
    assert not run.prefills


def entered(model, recipe, **given):
    with ts.prune(model, recipe, **given):
        pytest.fail("it was let in")


def test_a_model_compiled_as_a_whole():
    model = llava(seed=8)
    compiled = torch.compile(model, backend="eager")
    before = footprint(model)
    with pytest.raises(RefusedError, match="compiled as a whole"):
        entered(compiled, at(0))
    assert footprint(model) == before


def test_models_of_other_families():
    config = LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=16
    )
    with pytest.raises(UnsupportedModelError, match=r"LlamaForCausalLM \(model_type 'llama'\)"):
        entered(LlamaForCausalLM(config), at(0))
    model = llava(seed=8)
    # Its model type alone does not make a LLaVA.
    model.config.vision_config.model_type = "convnext"
    with pytest.raises(UnsupportedModelError, match="llava"):
        entered(model, at(0))


def test_two_adapters_for_one_model():
    class Other(LlavaAdapter):
        name = "other"

    class Plugin:
        @ts.hookimpl
        def register_adapters(self, registry):
            registry.add_adapter(Other)

    registry = ts.default_registry()
    registry.register(Plugin(), "stranger")
    with pytest.raises(UnsupportedModelError, match="both match") as caught:
        entered(shared("sdpa"), at(0), registry=registry)
    assert "stranger" in str(caught.value)


def test_an_older_library(monkeypatch):
    monkeypatch.setattr(transformers, "__version__", "5.17.0")
    with pytest.raises(RefusedError, match=r"5\.17\.0.*5\.23"):
        entered(shared("sdpa"), at(0))


@torch.no_grad()
def test_the_reference_would_tell():
    """A wrong kept token, a wrong order of positions or a hole in the mask moves logits far beyond the tolerances."""
    model = shared("sdpa")
    row = prompts(model, ONE)[0]
    kept = judged(model, row, norms, K, patches(model))
    right = Plain(model).logits(row, kept)[-1]
    other = next(i for i in range(patches(model)) if i not in kept)
    assert (Plain(model).logits(row, kept - {max(kept)} | {other})[-1] - right).abs().max() > 0.05
    assert (Plain(model, "compact").logits(row, kept)[-1] - right).abs().max() > 0.05
    cuts = {2: Cut(K, attended)}
    inside = Written(model).forward(row, cuts).logits
    assert (Written(model, "compact").forward(row, cuts).logits - inside).abs().max() > 0.05
    assert (Written(model).forward(row, {1: cuts[2]}).logits - inside).abs().max() > 0.05
