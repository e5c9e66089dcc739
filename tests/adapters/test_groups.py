"""Budgets by image, tile, frame and sample, and what becomes of newline tokens, on real layouts."""

from collections import Counter

import pytest
import torch

import tokensieve as ts
from tokensieve.errors import RefusedError
from tokensieve.evidence import NEWLINE
from tokensieve.testing.prompts import Prompts, randomize_weights
from tokensieve_strategies import Norm


def made(name, *parts):
    """A model of a family, a prompt, and the grid of its tokens: one (picture, tile, frame, row, column) each."""
    adapter_class = ts.default_registry().adapters[name]
    model = randomize_weights(adapter_class.tiny()).eval()
    prompts = Prompts(model, adapter_class(model))
    row = prompts.row([2, *parts, 4])
    inputs = prompts.batch([row])
    grids = []
    for modality, output in prompts.decoder.encode_visual_inputs(inputs).items():
        grids += prompts.decoder.layout(modality, output, inputs)
    grid = [(picture, *place) for picture, own in enumerate(grids) for place in own.tolist()]
    return model, inputs, grid


@torch.no_grad()
def kept(model, inputs, **stage):
    settings = {"at": "decoder.0", "select": "norm"} | stage
    written = ", ".join(f"{key}: {value}" for key, value in settings.items())
    with ts.prune(model, ts.Recipe.loads(f"stages: [{{{written}}}]")) as run:
        model(**inputs)
    return run.kept("decoder.0")[0].tolist()


TILED = ("llava_next", ("image", 3), 1, ("image", 0))


def test_by_image_tile_and_sample():
    model, inputs, grid = made(*TILED)
    size = Counter(place[0] for place in grid)
    assert Counter(grid[i][0] for i in kept(model, inputs, keep=7)) == {0: 7, 1: 7}
    assert Counter(grid[i][0] for i in kept(model, inputs, keep="1/4")) == {n: size[n] // 4 for n in size}
    tiles = Counter(place[:2] for place in grid)
    # One picture in 2 x 2 tiles, one in two; each as a whole, too.
    assert len(tiles) == 8
    assert Counter(grid[i][:2] for i in kept(model, inputs, keep=3, per="tile")) == dict.fromkeys(tiles, 3)
    assert len(kept(model, inputs, keep=11, per="sample")) == 11


def test_tiles_side_by_side_are_one_image():
    model, inputs, grid = made("internvl", ("image", 1), ("image", 2), 1, ("image", 3))
    # Two tiles without a word between them, then another picture.
    image = {0: 0, 1: 0, 2: 1}
    assert Counter(image[grid[i][0]] for i in kept(model, inputs, keep=5)) == {0: 5, 1: 5}
    assert Counter(grid[i][0] for i in kept(model, inputs, keep=4, per="tile")) == {0: 4, 1: 4, 2: 4}


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "llava_next_video", "video_llava", "llava_onevision"])
def test_by_frame(name):
    model, inputs, grid = made(name, ("video", 2))
    frames = Counter(place[2] for place in grid)
    assert len(frames) == 2
    assert Counter(grid[i][2] for i in kept(model, inputs, keep=2, per="frame")) == dict.fromkeys(frames, 2)
    assert len(kept(model, inputs, keep=3)) == 3


def test_a_picture_and_a_video():
    """Pictures and videos stand in the order of the prompt, not in that of their kinds."""
    model, inputs, grid = made("qwen2_vl", ("video", 2), 1, ("image", 1))
    pictures = sum(place[0] == 0 for place in grid)
    # `made` lists the picture first; in the prompt the video comes first.
    video = len(grid) - pictures
    ids = kept(model, inputs, keep=4)
    assert [i < video for i in ids] == [True] * 4 + [False] * 4
    frames = kept(model, inputs, keep=1, per="frame")
    assert len(frames) == 3
    assert frames[0] < video // 2 <= frames[1] < video <= frames[2]


def newline_ids(grid):
    return [i for i, place in enumerate(grid) if place[4] == NEWLINE]


@pytest.mark.parametrize("per", ["image", "sample"])
def test_newlines_that_are_kept(per):
    model, inputs, grid = made(*TILED)
    lines = newline_ids(grid)
    assert len(lines) == 8 + 4
    ids = kept(model, inputs, keep=20, newlines="keep", per=per)
    assert set(lines) <= set(ids)
    # They count against the budget, and the rest of it goes to the best of the others.
    assert len(ids) == (40 if per == "image" else 20)
    others = kept(model, inputs, keep=100_000, newlines="drop", per=per)
    assert set(others) == set(range(len(grid))) - set(lines)
    few = kept(model, inputs, keep=4, newlines="keep")
    # Eight newlines in the first picture, of which four fit; four in the second.
    assert [i for i in few if grid[i][0] == 0] == lines[:4]
    assert [i for i in few if grid[i][0] == 1 and i in lines] == lines[8:]
    assert len(few) == 8


def test_newlines_that_are_dropped_or_judged():
    model, inputs, grid = made(*TILED)
    lines = set(newline_ids(grid))
    assert not lines & set(kept(model, inputs, keep=30, newlines="drop"))
    with ts.prune(model, Norm(), keep="100%") as run, torch.no_grad():
        model(**inputs)
    assert lines <= set(run.kept("decoder.0")[0].tolist())
    assert len(kept(model, inputs, keep=30)) == 60


def test_class_tokens_of_frames_are_marked_like_newlines():
    model, inputs, grid = made("video_llava", ("video", 2))
    lines = set(newline_ids(grid))
    assert len(lines) == 2
    assert not lines & set(kept(model, inputs, keep=30, newlines="drop"))
    assert lines <= set(kept(model, inputs, keep=5, newlines="keep"))


@pytest.mark.parametrize(
    ("name", "part"),
    [("qwen2_vl", ("video", 1)), ("pixtral", ("image", 1)), ("gemma3", ("image", 1))],
)
def test_spatial_strategies_see_the_grid(name, part):
    """A composer that shares the budget by rows gives every row of a picture its share."""
    model, inputs, grid = made(name, part)
    ids = kept(model, inputs, select="'per_group(norm, by=row)'", keep=12)
    rows = Counter(place[3] for place in grid)
    shares = Counter(grid[i][3] for i in ids)
    fair = 12 / len(rows)
    assert all(min(rows[row], int(fair)) <= shares[row] <= int(fair) + 1 for row in rows)


@torch.no_grad()
def test_encoded_pictures_in_any_order():
    """What was encoded by the caller is taken by its name, in whatever order it comes."""
    model, inputs, _ = made("qwen2_vl", ("video", 2), 1, ("image", 1))
    right = kept(model, inputs, keep=4)
    with ts.prune(model, Norm(), keep=4):
        logits = model(**inputs).logits
    base = model.model
    encoded = {
        "video": base.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"], return_dict=True),
        "image": base.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True),
    }
    rest = {name: value for name, value in inputs.items() if not name.startswith("pixel_values")}
    with ts.prune(model, Norm(), keep=4) as run:
        again = model(**rest, mm_encoder_outputs=encoded).logits
    assert run.kept("decoder.0")[0].tolist() == right
    assert torch.equal(logits, again)


@torch.no_grad()
def test_encoded_input_of_an_unknown_kind():
    model, inputs, _ = made("llava", ("image", 1))
    encoded = model.model.get_image_features(inputs.pop("pixel_values"), return_dict=True)
    with ts.prune(model, Norm(), keep=4), pytest.raises(RefusedError, match="audio"):
        model(**inputs, mm_encoder_outputs={"image": encoded, "audio": encoded})


@torch.no_grad()
def test_words_around_pictures_keep_their_meaning():
    """Ovis 2's indicators, which forward reads as parts of pictures, are what they are in the shorter prompt, too."""
    model, inputs, _ = made("ovis2", ("image", 1))
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    first, last = model.config.visual_indicator_token_ids
    places = torch.nonzero(ids[0] == model.config.image_token_id).flatten()
    ids[0, places[0] - 1], ids[0, places[-1] + 1] = first, last
    with ts.prune(model, Norm(), keep=5) as run:
        logits = model(**inputs).logits[0, -1]
    left = set(places.tolist()) - {int(places[i]) for i in run.kept("decoder.0")[0]}
    stays = torch.tensor([place not in left for place in range(ids.shape[1])])
    # By hand: vectors of the whole prompt, cut; the model turns them by the places they had.
    embeds = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: embeds.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    model(**inputs)
    hook.remove()
    table = model.model.visual_embeddings_table.weight
    assert torch.equal(embeds[0][0, places[0] - 1], table[-2])
    assert torch.equal(embeds[0][0, places[-1] + 1], table[-1])
    hidden = model.model.language_model(
        inputs_embeds=embeds[0][:, stays],
        attention_mask=mask[:, stays],
        position_ids=torch.arange(ids.shape[1])[None, stays],
        use_cache=False,
    ).last_hidden_state[0, -1]
    torch.testing.assert_close(logits, model.lm_head(hidden), atol=5e-4, rtol=1e-3)


@pytest.mark.parametrize("keep", ["1/3", 3])
@pytest.mark.parametrize(
    ("name", "per", "parts"),
    [
        ("llava_next", "image", TILED[1:]),
        ("llava_next", "tile", TILED[1:]),
        ("qwen2_vl", "image", (("image", 3), 1, ("image", 0), 2, ("video", 2))),
        ("qwen3_vl", "frame", (("video", 2), 1, ("video", 3))),
        ("gemma3", "image", (("image", 3), 1, ("image", 0))),
    ],
)
def test_groups_of_any_kind_share_a_mean_exactly(name, per, parts, keep):
    model, inputs, grid = made(name, *parts)
    plain = kept(model, inputs, keep=keep, per=per)
    ours = kept(model, inputs, keep=f"mean {keep}", per=per, demand="erank", over="sample")
    assert len(ours) == len(plain)
    assert kept(model, inputs, keep=f"mean {keep}", per=per, demand="erank") == ours
    assert kept(model, inputs, keep="mean 100%", per=per, demand="erank") == list(range(len(grid)))
