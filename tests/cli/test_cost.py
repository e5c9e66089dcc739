"""`cost`: counted FLOPs on models of real size."""

import re

import pytest

import tokensieve as ts
from tokensieve.measure.geometry import Geometry, cost, layer_costs, visual_per_layer

REGISTRY = ts.default_registry()


def by_hand(config, lengths):
    """From the config alone: four projections with grouped keys and values, a gated MLP, scores and values."""
    text = config["text_config"]
    d, inner, heads = text["hidden_size"], text["intermediate_size"], text["num_attention_heads"]
    head = text.get("head_dim", d // heads)
    weights = d * head * (2 * heads + 2 * text["num_key_value_heads"]) + 3 * d * inner
    assert len(lengths) == text["num_hidden_layers"]
    return sum(2 * n * weights + 4 * n * n * heads * head for n in lengths)


@pytest.mark.parametrize("name", sorted(REGISTRY.geometries))
@pytest.mark.parametrize("recipe", ["script", "gsp-fastv"])
def test_every_geometry_is_counted_as_by_hand(name, recipe):
    geometry = Geometry.load(REGISTRY.geometry(name))
    layers = layer_costs(REGISTRY.adapter_for(geometry.model()))
    recipe = ts.Recipe.load(recipe, REGISTRY)
    block = recipe.stages[0].at.block
    lengths = [64 + (geometry.visual if layer < block else 64) for layer in range(len(layers))]
    assert cost(recipe, layers, [geometry.visual], 64) == by_hand(geometry.config, lengths)


@pytest.mark.parametrize(
    ("geometry", "keep", "tera"),
    [
        ("llava-1_5-7b", 576, "8.504"),
        ("llava-1_5-7b", 192, "3.350"),
        ("llava-1_5-7b", 64, "1.666"),
        ("llava-next-7b", 2880, "42.675"),
        ("llava-next-7b", 320, "5.051"),
        ("qwen2_5-vl-7b", 1296, "18.491"),
        ("qwen2_5-vl-7b", 144, "2.732"),
    ],
)
def test_published_counts(cli, geometry, keep, tera):
    result = cli("cost", "script", "--geometry", geometry, "--keep", str(keep))
    assert result.exit_code == 0, result.output
    [row] = re.findall(r"script.*", result.stdout)
    assert tera in row


def test_a_budget_for_each_image():
    recipe = ts.Recipe.load("gsp", REGISTRY).replace(keep="1/4")
    assert visual_per_layer(recipe, [100, 10, 1], 3) == [25 + 2 + 1] * 3


def test_what_cannot_be_counted_before_it_runs():
    recipe = ts.Recipe.loads("stages: [{at: decoder.0, select: gsp, keep: 64, per: tile}]", REGISTRY)
    with pytest.raises(ts.TokensieveError, match=r"per: tile at decoder\.0: what stays depends on the picture"):
        visual_per_layer(recipe, [576], 4)


def test_refusals(cli):
    assert cli("cost", "script").exit_code == 2
    assert cli("cost", "script", "--geometry", "llava-1_5-7b", "--model", "x").exit_code == 2
    wrong = cli("cost", "script", "--geometry", "lava-1_5-7b")
    assert (wrong.exit_code, "Did you mean 'llava-1_5-7b'?" in wrong.stderr) == (1, True)
    deep = cli("cost", "gsp-fastv", "--geometry", "qwen3-vl-8b")
    assert (deep.exit_code, "at decoder.3 and deeper" in deep.stderr) == (1, True)


def test_a_checkpoint(cli, checkpoint):
    result = cli("cost", "script", "--model", str(checkpoint), "--visual", "576", "--text", "10")
    assert result.exit_code == 0, result.output
    assert re.search(r"script.*64\.0", result.stdout)
