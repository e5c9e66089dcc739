"""Attention with FlashAttention's interface: masks of places, no bias, and packed rows where positions jump.

A stand-in computes what the kernels compute, and fails where they would do something else than sdpa does.
"""

import copy

import pytest
import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask

import tokensieve as ts
from tokensieve.errors import RefusedError
from tokensieve.models.attention import mask_kind
from tokensieve.testing.footprint import footprint
from tokensieve_strategies import FastV, Norm

from .models import CACHE, ONE, RAGGED, SEVERAL, batch, generate, prompts, shared

NAME = "flash_stand_in"
K = 4
CALLS = []


def stand_in(module, query, key, value, attention_mask, scaling=None, position_ids=None, **kwargs):
    """Softmax attention, causal to the right end; rows that see nothing give zero."""
    # The kernels are chosen by this name.
    assert module.config._attn_implementation == NAME
    assert attention_mask is None or attention_mask.ndim == 2
    rows, heads, steps, width = query.shape
    CALLS.append(attention_mask)
    if attention_mask is None and position_ids is not None and rows == 1 and steps > 1:
        # The library would take the row for several samples, and wait for the device in every layer.
        assert bool((position_ids.diff() == 1).all()), "positions jump"
    key, value = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (key, value))
    keys = key.shape[2]
    if attention_mask is not None:
        # Of a static cache, only what the mask covers.
        keys = attention_mask.shape[1]
        key, value = key[:, :, :keys], value[:, :, :keys]
    seen = torch.ones(steps, keys, dtype=torch.bool).tril(keys - steps)
    if attention_mask is not None:
        seen = seen & attention_mask.bool()[:, None, None, :]
    scores = (query @ key.mT) * (width**-0.5 if scaling is None else scaling)
    weights = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1).nan_to_num(0.0)
    return (weights @ value).transpose(1, 2).contiguous(), None


# For good: a footprint of a model holds what is registered.
AttentionInterface.register(NAME, stand_in)
AttentionMaskInterface.register(NAME, flash_attention_mask)


@pytest.fixture(scope="module")
def model():
    made = copy.deepcopy(shared("sdpa"))
    made.set_attn_implementation({"text_config": NAME})
    return made


def at(*blocks, select=None, positions="original"):
    stages = tuple(ts.Stage(at=f"decoder.{b}", select=Norm() if select is None else select, keep=K) for b in blocks)
    return ts.Recipe(stages=stages, positions=positions)


def near(found, right):
    torch.testing.assert_close(found, right, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("blocks", [(0,), (2,), (0, 2)], ids=str)
@pytest.mark.parametrize("layout", [ONE, SEVERAL, RAGGED], ids=["one", "several", "ragged"])
def test_generation_is_that_of_sdpa(model, layout, blocks, positions):
    plain = shared("sdpa")
    rows = prompts(plain, layout)
    with ts.prune(plain, at(*blocks, positions=positions)) as run:
        words, logits, _ = generate(plain, rows)
        kept = run.kept(f"decoder.{blocks[-1]}")
    before = footprint(model)
    CALLS.clear()
    with ts.prune(model, at(*blocks, positions=positions)) as run:
        found = generate(model, rows)
        assert all(torch.equal(a, b) for a, b in zip(run.kept(f"decoder.{blocks[-1]}"), kept, strict=True))
    assert footprint(model) == before
    assert torch.equal(found[0], words)
    near(found[1], logits)
    if layout is not RAGGED:
        # Nothing is padded, so no mask is made.
        assert CALLS
        assert all(mask is None for mask in CALLS[: len(model.model.language_model.layers)])


@pytest.mark.parametrize("rows", [ONE, RAGGED], ids=["one", "ragged"])
def test_attention_is_recomputed_from_what_the_kernels_get(model, rows):
    rows = prompts(model, rows)
    found = []
    for one in (shared("sdpa"), model):
        with ts.prune(one, at(2, select=FastV())) as run:
            words = generate(one, rows)[0]
        found.append(([sample.kept.tolist() for sample in run.latest.stages[0].samples], words.tolist()))
    assert found[0] == found[1]


@pytest.mark.parametrize("blocks", [(0,), (2,)], ids=str)
@torch.no_grad()
def test_keeping_everything_is_the_plain_model(model, blocks):
    inputs = batch(prompts(model, RAGGED))
    right = model(**inputs).logits[inputs["attention_mask"].bool()]
    recipe = ts.Recipe(stages=tuple(ts.Stage(at=f"decoder.{b}", select=Norm(), keep="100%") for b in blocks))
    with ts.prune(model, recipe):
        assert torch.equal(model(**inputs).logits[inputs["attention_mask"].bool()], right)


@pytest.mark.parametrize("blocks", [(0,), (2,), (0, 2)], ids=str)
def test_a_static_cache_and_beams(model, blocks):
    plain = shared("sdpa")
    static = {"cache_implementation": "static"}
    for layout, settings in ((RAGGED, static), (ONE, static), (ONE, {"num_beams": 2})):
        rows = prompts(plain, layout)
        with ts.prune(plain, at(*blocks)), ts.prune(model, at(*blocks)):
            right = generate(plain, rows, disable_compile=True, **settings)[0]
            assert torch.equal(generate(model, rows, disable_compile=True, **settings)[0], right)


@pytest.mark.parametrize("blocks", [(0,), (2,), (0, 2)], ids=str)
@torch.no_grad()
def test_several_words_at_once_on_a_pruned_cache(model, blocks):
    inputs = batch(prompts(model, RAGGED))
    more = torch.tensor([[7, 8, 9]] * len(RAGGED))
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(more)], dim=1)
    logits = []
    for one in (shared("sdpa"), model):
        with ts.prune(one, at(*blocks)):
            out = one(**inputs, use_cache=True)
            logits.append(one(input_ids=more, attention_mask=mask, **{CACHE: getattr(out, CACHE)}).logits)
    near(logits[1], logits[0])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sdpa", "square"),
        ("eager", "square"),
        ("flash_attention_2", "row"),
        ("flash_attention_3", "row"),
        ("flex_attention", None),
        ("nobody's", None),
        (None, None),
    ],
)
def test_implementations_are_known_by_their_masks(name, kind):
    assert mask_kind(name) == kind


def test_what_is_not_known_is_refused_between_layers(model):
    AttentionInterface.register("unmasked", stand_in)
    try:
        model.config.text_config._attn_implementation = "unmasked"
        with (
            pytest.raises(RefusedError, match="unmasked; inside the language model only sdpa, eager and FlashAtt"),
            ts.prune(model, at(2)),
        ):
            pass
    finally:
        model.config.text_config._attn_implementation = NAME
        AttentionInterface._global_mapping.pop("unmasked")
