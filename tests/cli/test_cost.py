"""`cost`: counted FLOPs on models of real size."""

import re

import pytest

import tokensieve as ts
from tokensieve.cost.geometry import Geometry, layer_costs, pruned_prefill_flops, visual_per_layer
from tokensieve.cost.vision import VisionCost

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
    lengths = [64 + (geometry.num_visual_tokens if layer < block else 64) for layer in range(len(layers))]
    assert pruned_prefill_flops(recipe, layers, [geometry.num_visual_tokens], 64) == by_hand(geometry.config, lengths)


@pytest.mark.parametrize(
    ("geometry", "keep", "tera"),
    [
        ("llava-1_5-7b", 576, "8.504"),
        ("llava-1_5-7b", 192, "3.350"),
        ("llava-1_5-7b", 64, "1.666"),
        pytest.param("llava-next-7b", 2880, "42.675", marks=pytest.mark.nightly),
        ("llava-next-7b", 320, "5.051"),
        pytest.param("qwen2_5-vl-7b", 1296, "18.491", marks=pytest.mark.nightly),
        pytest.param("qwen2_5-vl-7b", 144, "2.732", marks=pytest.mark.nightly),
    ],
)
def test_published_counts(cli, geometry, keep, tera):
    result = cli("cost", "script", "--geometry", geometry, "--keep", str(keep))
    assert result.exit_code == 0, result.output
    [row] = re.findall(r"script.*", result.stdout)
    assert tera in row


def vit(d, inner, layers, n, gated=False):
    """A tower's layers: four projections and an MLP of two maps (three where gated), scores and values."""
    weights = 4 * d * d + (3 if gated else 2) * d * inner
    return layers * (2 * n * weights + 4 * n * n * d)


def two(n, a, b, c):
    """A projector of two linear maps on `n` tokens."""
    return 2 * n * (a * b + b * c)


VISION = {
    # Patch embedding, layers (all are run, also those after the one that is read), projector; tiles.
    "llava-1_5-7b": 2 * 576 * 3 * 14**2 * 1024 + vit(1024, 4096, 24, 577) + two(576, 1024, 4096, 4096),
    "llava-next-7b": 5 * (2 * 576 * 3 * 14**2 * 1024 + vit(1024, 4096, 24, 577) + two(576, 1024, 4096, 4096)),
    # The frames of a video, whose class tokens are tokens of the prompt.
    "video-llava-7b": 8 * (2 * 256 * 3 * 14**2 * 1024 + vit(1024, 4096, 24, 257)) + two(8 * 257, 1024, 4096, 4096),
    "llava-onevision-7b": 5 * (2 * 729 * 3 * 14**2 * 1152 + vit(1152, 4304, 26, 729) + two(729, 1152, 3584, 3584)),
    "internvl3-8b": 7 * (2 * 1024 * 3 * 14**2 * 1024 + vit(1024, 4096, 24, 1025) + two(256, 4096, 3584, 3584)),
    # Windows of 64 patches in 28 of 32 layers, the whole picture in four.
    "qwen2_5-vl-7b": 2 * 5184 * 1176 * 1280
    + 28 * (2 * 5184 * (4 * 1280**2 + 3 * 1280 * 3420) + 81 * 4 * 64**2 * 1280)
    + vit(1280, 3420, 4, 5184, gated=True)
    + two(1296, 5120, 5120, 3584),
    # Four mergers: one at the end, three for the layers of deepstack.
    "qwen3-vl-8b": 2 * 4096 * 1536 * 1152 + vit(1152, 4304, 27, 4096) + 4 * two(1024, 4608, 4608, 4096),
}


@pytest.mark.parametrize(
    "name",
    [
        # Its windows take a quarter of a minute to count.
        pytest.param(name, marks=pytest.mark.nightly) if name == "qwen2_5-vl-7b" else name
        for name in sorted(REGISTRY.geometries)
    ],
)
def test_encoding_a_picture_is_counted_as_by_hand(name):
    geometry = Geometry.load(REGISTRY.geometry(name))
    adapter = REGISTRY.adapter_for(geometry.model())
    vision = VisionCost.of(adapter, geometry.inputs())
    assert vision.unpruned_flops == VISION[name]
    assert vision.flops(ts.Recipe.load("script", REGISTRY)) == vision.unpruned_flops


def test_merging_in_the_tower_is_counted_as_by_hand():
    """ToMe in all layers of LLaVA-1.5's tower that are read, 16 tokens fewer in each."""
    recipe = ts.Recipe.loads(
        "strategies: {merging: {use: tome, metric: keys}}\n"
        "stages: [{at: encoder.0..22, select: merging, r: 16, rest: merge}, {at: decoder.2, select: norm, keep: 64}]",
        REGISTRY,
    )
    geometry = Geometry.load(REGISTRY.geometry("llava-1_5-7b"))
    adapter = REGISTRY.adapter_for(geometry.model())
    vision = VisionCost.of(adapter, geometry.inputs())
    d, inner, total, n = 1024, 4096, 2 * 576 * 3 * 14**2 * 1024 + two(576, 1024, 4096, 4096), 577
    for layer in range(24):
        left = n - 16 if layer < 23 else n
        total += 2 * n * 4 * d * d + 4 * n * n * d + 2 * left * 2 * d * inner
        n = left
    assert n == 1 + 576 - 23 * 16
    assert vision.flops(recipe) == total
    layers = layer_costs(adapter)
    lengths = [64 + (208 if layer < 2 else 64) for layer in range(32)]
    assert pruned_prefill_flops(recipe, layers, [576], 64, encoder_prunes_prompt=True) == by_hand(
        geometry.config, lengths
    )


def test_a_video_goes_through_a_tower_that_no_token_leaves(cli):
    result = cli("cost", "tome-encoder", "--geometry", "video-llava-7b")
    assert result.exit_code == 0, result.output
    [row] = re.findall(r"tome-encoder.*", result.stdout)
    config = Geometry.load(REGISTRY.geometry("video-llava-7b")).config
    cells = [cell.strip() for cell in row.split("│")]
    seen, spoken = VISION["video-llava-7b"], by_hand(config, [64 + 2056] * 32)
    assert cells[2:6] == ["2056.0", f"{seen / 1e12:.3f}", f"{spoken / 1e12:.3f}", "100.0%"]


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
