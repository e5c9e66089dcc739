"""What pruning may add to one prefill and to a decode step: operators and waits of the host, counted, not timed."""

from contextlib import nullcontext

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

import tokensieve as ts
from tokensieve.measure import count_operators, count_overhead
from tokensieve.testing.prompts import Prompts

KEEP, VISUAL, IMAGE = 64, 576, 999
BOUNDS = {
    "random": (120, 3),
    "uniform": (120, 3),
    "gsp": (200, 3),
    "fastv": (250, 4),
    "tome": (300, 4),
    "divprune": (600, 3),
    "qcsp": (900, 3),
    "script": (2500, 6),
}
"""Operators and waits that a recipe may add to a prefill."""


@pytest.fixture(scope="module")
def model():
    """LLaVA-1.5's picture of 336 x 336 in 24 x 24 tokens, as wide as a small language model.

    Widths are not counted, but vectors must have more dimensions than tokens are picked: with fewer, greedy MAP has
    nothing left to pick from, which it works out in float64.
    """
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=336,
        patch_size=14,
        projection_dim=32,
    )
    text = LlamaConfig(
        hidden_size=2048,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        vocab_size=1000,
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=IMAGE)
    return LlavaForConditionalGeneration(config).eval()


@pytest.fixture(scope="module")
def request_of_one(model):
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 900, (1, 35 + VISUAL + 20), generator=draw)
    ids[:, 35 : 35 + VISUAL] = IMAGE
    pixels = torch.randn(1, 3, 336, 336, generator=draw)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


@pytest.fixture(scope="module")
def plain(model, request_of_one):
    return count_overhead(model, request_of_one, None)


def recipe(name):
    return ts.Recipe.load(name, ts.default_registry()).replace(keep=KEEP)


@pytest.mark.parametrize("name", BOUNDS)
def test_a_prefill_takes_no_more_than(model, request_of_one, plain, name):
    prefill, step = count_overhead(model, request_of_one, recipe(name)).over(plain)
    operators, waits = BOUNDS[name]
    assert prefill.operators <= operators, prefill
    assert prefill.synchronisations <= waits, prefill
    assert step.operators <= 0, step
    assert step.synchronisations <= 0, step


def step_of_generate(model, inputs, name):
    """What the fifth token adds to four of them."""
    found = []
    with torch.no_grad(), nullcontext() if name is None else ts.prune(model, recipe(name)):
        for length in (2, 4, 5):
            with count_operators() as counts:
                model.generate(**inputs, max_new_tokens=length, min_new_tokens=length, do_sample=False)
            found.append((counts.operators, counts.synchronisations))
    _, four, five = found
    return five[0] - four[0], five[1] - four[1]


@pytest.fixture(scope="module")
def unpruned(model, request_of_one):
    return step_of_generate(model, request_of_one, None)


@pytest.mark.parametrize("name", ["random", "fastv"])
def test_a_token_of_generate_takes_no_more(model, request_of_one, unpruned, name):
    pruned = step_of_generate(model, request_of_one, name)
    assert pruned[0] <= unpruned[0]
    assert pruned[1] <= unpruned[1]


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
def test_layouts_of_tiles_are_remembered(name):
    """What depends on the size of an image alone is worked out once for a model, under autograd or not."""
    adapter = ts.default_registry().adapters[name]
    tiny = adapter.tiny()
    prompts = Prompts(tiny, adapter(tiny))
    inputs = prompts.batch([prompts.row((3, ("image", 1), 5))])
    unpruned = count_overhead(tiny, inputs, None)
    prefill, step = count_overhead(tiny, inputs, recipe("random").replace(keep=4)).over(unpruned)
    # Sizes, and how many images each prompt has, are read from small tensors of the request.
    assert prefill.operators <= BOUNDS["random"][0], prefill
    assert prefill.synchronisations <= BOUNDS["random"][1] + 3, prefill
    assert step.operators <= 0, step
    with torch.inference_mode():
        [first] = adapter(tiny).decoder.layout("image", None, inputs)
    [again] = adapter(tiny).decoder.layout("image", None, inputs)
    assert again is first
    assert not again.is_inference()
    # Another way of cutting has another layout.
    tiny.config.image_grid_pinpoints = [[2 * side for side in one] for one in tiny.config.image_grid_pinpoints]
    [other] = adapter(tiny).decoder.layout("image", None, inputs)
    assert other is not first
