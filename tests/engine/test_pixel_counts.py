"""The site before the vision tower in ledgers, counts, schemas and explanations."""

import re
from collections import Counter

import pytest
import torch

import tokensieve as ts
from tokensieve.algebra.budget import count
from tokensieve.cost.language_model import flop_counter
from tokensieve.cost.vision import VisionCost
from tokensieve.errors import RecipeError, RefusedError

from . import packed
from .packed import kit_of, recipe, run, unharmed, window_of

MORE = "  - {at: decoder.0, select: norm, keep: 2}\n"


@pytest.fixture
def qwen():
    yield from unharmed("qwen2_vl")


# The ledger


@torch.no_grad()
def test_the_ledger(qwen):
    row = qwen.row(("image", 1), 2, ("video", 5), seed=5)
    _, [[kept], _], ledger = run(qwen, recipe(3, more=MORE), [row])
    prefill = ledger.latest
    total = len(qwen.prompts.visual(row))
    assert (prefill.visual, prefill.entering) == ([total], [6])
    assert [(stage.site, stage.samples[0].entered) for stage in prefill.stages] == [
        ("pixel.0", total),
        ("decoder.0", 6),
    ]
    assert ledger.visual_per_layer(0) == [4] * len(ledger.layers)
    whole, left = [], []
    for (_, _, (frames, rows, columns)), own in zip(
        packed.pictures_of(qwen.prompts, row), packed.units_of(qwen.prompts, row), strict=True
    ):
        for frame in range(frames):
            size = rows * columns // 4
            whole.append(rows * columns)
            left.append(4 * len(set(own[frame * size : (frame + 1) * size]) & set(kept)))
    vision = qwen.model.config.vision_config
    d, inner = vision.embed_dim, int(vision.embed_dim * vision.mlp_ratio)

    def flops(patches):
        return vision.depth * sum(2 * n * (4 * d * d + 2 * d * inner) + 4 * n * n * d for n in patches)

    assert ledger.tower_flops(0) == (flops(whole), flops(left))
    assert "blocks of the vision encoder" in str(ledger.table().caption)
    assert ledger.to_dict()["samples"][0]["tower_flops_pruned"] == flops(left)


@torch.no_grad()
def test_flops_of_a_tower_with_windows():
    """Blocks with windows attend within what is left of each."""
    kit = kit_of("qwen2_5_vl")
    row = kit.row(("image", 1), 2, ("video", 5), seed=5)
    _, [[kept]], ledger = run(kit, recipe(3), [row])
    vision = kit.model.config.vision_config
    d, inner, every = vision.hidden_size, vision.intermediate_size, range(len(kit.prompts.visual(row)))

    def flops(tokens):
        places = [window_of(kit, row, token) for token in tokens]
        frames, windows = (Counter(place[:ends] for place in places).values() for ends in (2, 4))
        total = 0
        for block in range(vision.depth):
            parts = frames if block in vision.fullatt_block_indexes else windows
            total += 2 * 4 * len(tokens) * (4 * d * d + 3 * d * inner) + sum(4 * (4 * n) ** 2 * d for n in parts)
        return total

    assert ledger.tower_flops(0) == (flops(every), flops(kept))
    with pytest.raises(RefusedError, match="what stays of each window depends on the picture"):
        VisionCost.of(kit.prompts.adapter, kit.prompts.pictures([kit.row(("image", 1))])).flops(recipe(3))
    assert "depends on how many stay of each window" in str(ts.explain(recipe(3), kit.prompts.adapter, visual=64))


@torch.no_grad()
def test_a_run_is_replayed(qwen, tmp_path):
    rows = qwen.ragged_rows()
    out, kept, ledger = run(qwen, recipe(3), rows)
    ledger.save(tmp_path / "kept.json")
    made = ts.Recipe(stages=(ts.Stage(at="pixel.0", select=ts.replay(tmp_path / "kept.json", "pixel.0"), keep="auto"),))
    again, found, _ = run(qwen, made, rows)
    assert found == kept
    assert torch.equal(again, out)


# Sites, counts and words


def test_the_site():
    site = ts.Site.of("pixel.0")
    assert str(site) == "pixel.0"
    assert site.next is None
    assert ts.Site.each("pixel.0") == (site,)
    assert site < ts.Site.of("encoder.0") < ts.Site.of("decoder.0")
    for wrong in ("pixel.1", "pixel.00", "pixel.0..1", "pixel", "pixels.0"):
        with pytest.raises(RecipeError, match=r"pixel\.0 \(before the vision tower\)"):
            ts.Site.each(wrong)
    with pytest.raises(RecipeError, match="out of order"):
        ts.Recipe.loads("stages: [{at: decoder.0, select: norm, keep: 3}, {at: pixel.0, select: norm, keep: 2}]")
    written = recipe(3, more=MORE)
    assert ts.Recipe.loads(written.dump()) == written
    [pattern] = [one["pattern"] for one in [ts.schema()["properties"]["stages"]["items"]["properties"]["at"]]]
    assert all(bool(re.fullmatch(pattern, at)) == right for at, right in SITES.items())


SITES = {
    "pixel.0": True,
    "pixel.1": False,
    "pixel.0..0": False,
    "decoder.0": True,
    "encoder.0..3": True,
    "decoder": False,
}


def test_a_later_stage_that_keeps_no_less_is_noted(qwen):
    found = ts.review(recipe(3, more="  - {at: decoder.0, select: norm, keep: 5}\n"), qwen.prompts.adapter)
    assert ["keeps 5 of the 3 that pixel.0 leaves" in one.message for one in found] == [True]


@pytest.mark.parametrize(
    ("name", "keep", "per"),
    [
        ("qwen2_vl", "1/3", "image"),
        ("qwen3_vl", "1/2", "image"),
        ("qwen3_omni_moe", "1/2", "image"),
        ("qwen2_vl", "2", "frame"),
    ],
)
@torch.no_grad()
def test_counted_flops_are_those_that_torch_counts(name, keep, per):
    """Of everything that encodes, with as many patches of every picture or frame as the recipe leaves."""
    kit = kit_of(name)
    tower, what = kit.prompts.adapter.packed_tower, "video" if per == "frame" else "image"
    [modality] = [one for one in kit.prompts.decoder.modalities if one.name == what]
    row = kit.row((what, 1), 2, (what, 3), seed=5) if per == "image" else kit.row((what, 5), seed=5)
    inputs = kit.prompts.pictures([row])
    if per == "image":
        # Several pictures of one call share nothing, but their budget is of each.
        inputs = {key: value for key, value in inputs.items() if key.startswith(("pixel_values", "image_grid"))}
    made = ts.Recipe.loads(f"stages: [{{at: pixel.0, select: norm, keep: {keep}, per: {per}}}]")
    cost = VisionCost.of(kit.prompts.adapter, inputs)
    encode = getattr(kit.model.model, f"get_{what}_features")

    def counted(given_):
        counter = flop_counter()
        with counter:
            encode(**given_, return_dict=True)
        return counter.get_total_flops()

    assert cost.unpruned_flops == counted(inputs)
    kept, begin = [], 0
    for layout in tower.layout(modality, inputs):
        for frame in layout[:, 1].unique().tolist() if per == "frame" else [None]:
            n = len(layout) if frame is None else int((layout[:, 1] == frame).sum())
            k = count(ts.Keep.of(keep), n)
            kept += range(begin, begin + k)
            begin += n
    if per == "frame" or len(tower.layout(modality, inputs)) > 1:
        other = made.replace(stages=(made.stages[0].model_copy(update={"per": "sample"}),))
        with pytest.raises(RefusedError, match="per: sample"):
            cost.flops(other)
    packed_inputs = tower.packed_inputs(modality, inputs, torch.tensor(kept))
    assert cost.flops(made) == counted(packed_inputs)


def test_an_explanation(qwen):
    said = str(ts.explain(recipe("1/4", select="norm"), qwen.prompts.adapter, visual=64))
    assert "pixel.0: before the vision tower, which encodes what is left" in said
    assert "reads features (the normalised pixels of a token's patches)" in said
    assert "16 of 64 tokens are encoded, of 4 patches each" in said
    assert "see 16 visual tokens" in said
    assert "depends on the video" in str(ts.explain(recipe(3), qwen.prompts.adapter, visual=64, video=True))
    open_count = str(ts.explain(recipe("auto", select="pixelprune"), qwen.prompts.adapter, visual=64))
    assert "cannot be counted" in open_count
