"""Pictures that are cut into tiles, with newline tokens: what a server keeps of them, and how many."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tokensieve as ts
from tokensieve.evidence import NEWLINE
from tokensieve.models.layouts import tiled
from tokensieve.serving.families import ServedFamily
from tokensieve.serving.selector import PictureLayout, PictureSelector, Raster
from tokensieve_adapters.llava_next import LlavaNextAdapter
from tokensieve_strategies import Norm

FAMILY = ServedFamily("llava_next", "LlavaNextForConditionalGeneration")


@st.composite
def cut(draw):
    """The side of a tile, rows and columns of tiles, and what is cut off above and below, or left and right."""
    side, rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    above, left = draw(st.sampled_from([(True, False), (False, True)]))
    return (
        side,
        rows,
        columns,
        draw(st.integers(0, (rows * side - 1) // 2)) if above else 0,
        draw(st.integers(0, (columns * side - 1) // 2)) if left else 0,
    )


def layout_of(side, rows, columns, above, left):
    def pack(places, newline):
        grid = places[1:].reshape(rows, columns, side, side, -1).transpose(1, 2).flatten(2, 3).flatten(0, 1)
        grid = grid[above : rows * side - above, left : columns * side - left]
        lines = torch.cat([grid, newline.expand(len(grid), 1, -1)], dim=1)
        return torch.cat([places[0], lines.flatten(0, 1)])

    return PictureLayout(tiled(side, 1 + rows * columns, columns, pack))


def by_a_loop(side, rows, columns, above, left):
    """Return tile, frame, row and column of each token."""
    places = [(0, 0, row, column) for row in range(side) for column in range(side)]
    for number, row in enumerate(range(above, rows * side - above)):
        across = range(left, columns * side - left)
        tiles = [1 + (row // side) * columns + column // side for column in across]
        places += [(tile, 0, number, turn) for turn, tile in enumerate(tiles)]
        places.append((tiles[-1], 0, number, NEWLINE))
    return places


@given(cut())
def test_a_layout_of_tiles_is_what_a_loop_finds(shape):
    assert list(map(tuple, layout_of(*shape).places.tolist())) == by_a_loop(*shape)


def test_an_image_that_is_not_cut_ends_with_a_newline():
    places = tiled(2, 1, 1, lambda places, newline: pytest.fail("nothing is packed"))
    assert places.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 1, 1], [0, 0, 1, NEWLINE]]


def how_many(keep, n):
    return min(keep, n) if isinstance(keep, int) else max(1, math.floor(n * keep))


def kept_by_loops(places, lengths, keep, per, newlines):
    """Return the ids of the longest tokens of each group, with newline tokens judged, dropped, or kept first."""
    lines = [number for number, place in enumerate(places) if place[3] == NEWLINE]
    groups = {}
    for number, place in enumerate(places):
        if newlines == "judge" or number not in lines:
            groups.setdefault(place[0] if per == "tile" else place[1] if per == "frame" else 0, []).append(number)
    kept = set()
    for ids in groups.values():
        if newlines == "keep":
            budget = how_many(keep, len(ids) + len(lines))
            kept |= set(lines[:budget])
            budget = max(0, budget - len(lines))
        else:
            budget = how_many(keep, len(ids))
        kept |= set(sorted(ids, key=lambda number: -lengths[number])[:budget])
    return sorted(kept)


@given(
    shape=cut(),
    keep=st.one_of(st.integers(1, 20), st.fractions(Fraction(1, 20), 1, max_denominator=20)),
    per=st.sampled_from(["image", "frame", "tile"]),
    newlines=st.sampled_from(["judge", "drop", "keep"]),
    seed=st.integers(0, 5),
)
def test_what_stays_of_tiles_is_what_loops_find(shape, keep, per, newlines, seed):
    recipe = ts.Recipe.of(Norm(), keep, per=per, newlines=newlines, positions="compact")
    served, layout = PictureSelector(recipe, FAMILY), layout_of(*shape)
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(2, layout.tokens, 4, generator=draw, dtype=torch.float64)
    wanted = [kept_by_loops(by_a_loop(*shape), row.norm(dim=1).tolist(), keep, per, newlines) for row in features]
    assert [served.count(layout)] * 2 == [len(one) for one in wanted]
    selected = served.select(features, layout)
    assert selected.ids.tolist() == wanted
    assert torch.equal(selected.features, torch.stack([features[row, ids] for row, ids in enumerate(wanted)]))


def test_equal_layouts_are_one_key():
    one, same, other = layout_of(2, 1, 2, 0, 0), layout_of(2, 1, 2, 0, 0), layout_of(2, 2, 1, 0, 0)
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != Raster(1, 2, 2)
    assert one.tokens == 4 + 2 * 5
    assert str(one) == "PictureLayout of 14 tokens"


@pytest.mark.parametrize("newlines", ["judge", "drop", "keep"])
@pytest.mark.parametrize("per", ["image", "tile"])
@pytest.mark.parametrize("keep", [7, "1/4"])
def test_what_stays_is_what_prune_keeps(keep, per, newlines):
    model = LlavaNextAdapter.tiny()
    recipe = ts.Recipe.load("divprune", keep=keep).replace(positions="compact")
    recipe = recipe.replace(stages=[recipe.stages[0].model_copy(update={"per": per, "newlines": newlines})])
    served = PictureSelector(recipe, FAMILY)
    for seed in range(4):
        given = LlavaNextAdapter.random_inputs(model, [[seed]])
        [places] = LlavaNextAdapter(model).decoder.layout("image", None, given)
        layout = PictureLayout(places)
        prompt = torch.tensor([[1, *[model.config.image_token_index] * layout.tokens, 5]])
        with torch.no_grad(), ts.prune(model, recipe) as run:
            model(**given, input_ids=prompt, attention_mask=torch.ones_like(prompt))
        kept = run.kept("decoder.0")[0].tolist()
        with torch.no_grad():
            features = model.model.get_image_features(**given).pooler_output[0]
        assert served.count(layout) == len(kept)
        assert served.select(features.unsqueeze(0), layout).ids[0].tolist() == kept
