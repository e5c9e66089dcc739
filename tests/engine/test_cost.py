"""Counted FLOPs are those that torch counts in the pruned run."""

import copy

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

import tokensieve as ts
from tokensieve.cost.language_model import LayerCost, flop_counter, prefill_flops
from tokensieve_strategies import Norm

from .models import ONE, RAGGED, SEVERAL, batch, generate, prompts, shared

PLANS = {
    "all": {"decoder.0": "100%"},
    "before": {"decoder.0": 5},
    "inside": {"decoder.2": 3},
    "last": {"decoder.3": 1},
    "stacked": {"decoder.0": 9, "decoder.1": 6, "decoder.3": 2},
}


def counts(model, inputs):
    """FLOPs of a forward, by module."""
    counter = flop_counter()
    with counter:
        model(**inputs)
    return {name: sum(flops.values()) for name, flops in counter.get_flop_counts().items()}


def in_layers(own):
    """Those of the language model's layers, of which rotary positions, an outer product, are no part."""
    return sum(flops for name, flops in own.items() if name.rpartition(".")[0].endswith("language_model.layers"))


def planned(plan):
    return ts.Recipe(stages=tuple(ts.Stage(at=site, select=Norm(), keep=keep) for site, keep in PLANS[plan].items()))


@pytest.mark.covering(1)
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("layouts", [ONE, SEVERAL], ids=["one", "several"])
@pytest.mark.parametrize("variant", ["sdpa", "eager", "mha"])
@torch.no_grad()
def test_flops_are_those_torch_counts(variant, plan, layouts):
    model = shared(variant)
    inputs = batch(prompts(model, layouts))

    def counted():
        return in_layers(counts(model, inputs))

    unpruned = counted()
    with ts.prune(model, planned(plan)) as run:
        pruned = counted()
    assert run.flops(0) == (unpruned, pruned)


@torch.no_grad()
def test_each_row_of_a_batch_is_counted_without_padding():
    model = shared("sdpa")
    rows = prompts(model, RAGGED)
    with ts.prune(model, planned("stacked")) as run:
        generate(model, rows)
        together = [run.flops(i) for i in range(3)]
        assert run.visual_per_layer(2) == [18, 12, 12, 4]
        assert run.mean_visual(2) == 11.5
        for row, both in zip(rows, together, strict=True):
            generate(model, [row])
            assert run.flops(0) == both
    assert together[1][0] == together[1][1]


@pytest.mark.parametrize(("tokens", "tera"), [(640, 8.504), (128, 1.666)])
def test_llava_7b_costs_what_is_known(tokens, tera):
    config = LlamaConfig(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, vocab_size=32064
    )
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        layer = LlamaDecoderLayer(config, 0)
    total = prefill_flops([LayerCost.of(layer, config)] * 32, [tokens] * 32)
    assert round(total / 1e12, 3) == tera


def test_a_head_width_of_its_own_counts():
    config = copy.deepcopy(shared("sdpa").config.text_config)
    config.head_dim = 20
    config._attn_implementation = "sdpa"
    layer = LlamaDecoderLayer(config, 0)
    cost = LayerCost.of(layer, config)
    assert cost.attention_width == 80
    heads, kv = config.num_attention_heads, config.num_key_value_heads
    assert cost.linear_parameters == 48 * 20 * (2 * heads + 2 * kv) + 3 * 48 * 96
    assert cost.flops(7) == 2 * 7 * cost.linear_parameters + 4 * 49 * 80


TOWER = {
    "drop": (ts.Stage(at="encoder.1", select=Norm(), keep=7),),
    "merge": ts.Stage.each(at="encoder.0..1", select=Norm(), r=4, rest="merge"),
    "both": (
        ts.Stage(at="encoder.0", select=Norm(), keep=9, rest="merge"),
        ts.Stage(at="encoder.1", select=Norm(), keep=6),
        ts.Stage(at="decoder.1", select=Norm(), keep=2),
    ),
}


@pytest.mark.covering(1)
@pytest.mark.parametrize("plan", TOWER)
@pytest.mark.parametrize("layouts", [ONE, SEVERAL], ids=["one", "several"])
@pytest.mark.parametrize("variant", ["sdpa", "eager", "siglip"])
@torch.no_grad()
def test_flops_of_the_tower_are_those_torch_counts(variant, plan, layouts):
    model = shared(variant)
    inputs = batch(prompts(model, layouts))

    def counted():
        own = counts(model, inputs)
        # What is counted between a layer's parts is selection.
        tower = sum(
            n for name, n in own.items() if ".encoder.layers." in name and name.split(".")[-1] in ("self_attn", "mlp")
        )
        return tower, in_layers(own)

    unpruned = counted()
    with ts.prune(model, ts.Recipe(stages=TOWER[plan])) as run:
        pruned = counted()
        assert (run.tower_flops(0), run.flops(0)) == tuple(zip(unpruned, pruned, strict=True))
        generate(model, prompts(model, RAGGED))
        ragged = [run.tower_flops(i) for i in range(3)]
    one = run.tower_flops(2)[1] // 2
    assert [flops[1] for flops in ragged] == [one, 0, 2 * one]
    assert run.to_dict()["samples"][2]["tower_flops_pruned"] == 2 * one
