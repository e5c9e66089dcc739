"""Pictures: kept patches keep the photo's brightness, the others are dimmed, and nothing overlaps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont
from tests.cli.conftest import PHOTO, QUESTION

import tokensieve as ts
from tokensieve.cli.show import file_names
from tokensieve.drawing.operands import StageView
from tokensieve.drawing.picture import (
    ACROSS,
    DIM,
    MARGIN,
    NOBODY,
    PALETTE,
    PANEL,
    View,
    bands_of,
    colours,
    highlight,
    lines,
    sheet,
    views_of,
)
from tokensieve.drawing.show import draw, processed_images, token_grid
from tokensieve_strategies import Norm, ToMe

SIDE = 4


def grid(tiles=1, side=SIDE, newlines=False):
    rows = []
    for tile in range(tiles):
        rows += [(0, tile, 0, row, column) for row in range(side) for column in range(side)]
        rows += [(0, tile, 0, 0, -1)] if newlines else []
    return torch.tensor(rows)


def grey(size=64, value=200):
    return Image.new("RGB", (size, size), (value, value, value))


def seen(own, kept, recipe="r", site="decoder.0"):
    own = {name: frozenset(ids) for name, ids in own.items()}
    return StageView(recipe, site, " & ".join(own), "4", 16, frozenset(kept), own, 9)


def inside(view, token):
    """A patch without its frame."""
    left, top, right, bottom = view.box(token)
    edge = max(1, view.cell // 8) + 1
    return left + edge, top + edge, right - edge, bottom - edge


def test_kept_patches_are_the_photo_and_others_a_quarter_of_it():
    rng = np.random.default_rng(0)
    source = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    (view,) = views_of(source, [source], grid())
    kept = {1, 6, 15}
    drawn = highlight(view, dict.fromkeys(kept, (PALETTE[0],)))
    for token in range(16):
        box = inside(view, token) if token in kept else view.box(token)
        original = np.asarray(view.image.crop(box), dtype=float)
        shown = np.asarray(drawn.crop(box), dtype=float)
        expected = original if token in kept else original * DIM
        assert np.abs(shown - expected).max() <= 0.5


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_a_frame_shows_everyone_who_chose_the_token(count):
    (view,) = views_of(grey(), [grey()], grid())
    drawn = np.asarray(highlight(view, {5: PALETTE[:count]}).crop(view.box(5)))
    found = {tuple(pixel) for row in drawn for pixel in row}
    wanted = [tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for colour in PALETTE[: min(count, 4)]]
    assert set(wanted) <= found


def test_the_frame_stays_inside_its_patch():
    (view,) = views_of(grey(), [grey()], grid())
    both = np.asarray(highlight(view, {5: (PALETTE[0],)}), dtype=int)
    none = np.asarray(highlight(view, {}), dtype=int)
    changed = np.argwhere((both != none).any(axis=2))
    left, top, right, bottom = view.box(5)
    assert changed.min(axis=0).tolist() == [top, left]
    assert changed.max(axis=0).tolist() == [bottom - 1, right - 1]


def test_a_view_holds_whole_patches():
    (view,) = views_of(grey(), [grey()], grid())
    assert view.image.size == (SIDE * view.cell, SIDE * view.cell)
    assert view.image.width <= PANEL < view.image.width + SIDE
    assert view.box(7) == (3 * view.cell, view.cell, 4 * view.cell, 2 * view.cell)


def test_tiles_are_views_of_their_own_and_newlines_no_patches():
    made = [grey(value=value) for value in (10, 60, 110, 160, 210)]
    views = views_of(grey(), made, grid(tiles=5, newlines=True))
    assert [view.image.getpixel((0, 0))[0] for view in views] == [10, 60, 110, 160, 210]
    assert [min(view.places) for view in views] == [0, 17, 34, 51, 68]
    assert all(len(view.places) == 16 for view in views)
    result = sheet(views, bands_of([seen({"a": {0}, "b": {17}}, {0, 17, 84})]), "t", ["n"])
    assert len(set(result.panels[0].at)) == 5


def test_tiles_of_one_grid_are_one_view():
    """Tile 0 is the picture as a whole; the other four share one grid, so they are drawn on the photo together."""
    whole = [(0, 0, 0, row, column) for row in range(2) for column in range(2)]
    rest = [(0, 1 + row // 2 * 2 + column // 2, 0, row, column) for row in range(4) for column in range(4)]
    views = views_of(grey(value=77), [grey()] * 5, torch.tensor(whole + rest))
    assert [sorted(view.places) for view in views] == [list(range(4)), list(range(4, 20))]
    assert views[1].places[4 + 7] == (1, 3)
    assert {view.image.getpixel((0, 0))[0] for view in views} == {77}


def test_tiles_of_equal_rank_are_views_of_their_own():
    grids = [(part, 0, 0, row, column) for part in range(3) for row in range(2) for column in range(2)]
    views = views_of(grey(), [grey(value=value) for value in (10, 20, 30)], torch.tensor(grids))
    assert [view.image.getpixel((0, 0))[0] for view in views] == [10, 20, 30]


def test_crops_that_do_not_fit_the_patches_give_way_to_the_photo():
    views = views_of(grey(value=77), [grey(), grey()], grid(tiles=3))
    assert {view.image.getpixel((0, 0))[0] for view in views} == {77}


def test_the_panels_of_a_composition():
    one = seen({"a": {1, 2, 3, 4}, "b": {3, 4, 5, 6}}, {1, 3, 4, 9}, recipe="both")
    (band,) = bands_of([one])
    assert [panel.caption for panel in band.panels] == [
        "a: its own 4 best",
        "b: its own 4 best",
        "in both: 2",
        "in any: 6",
        "kept: 4 of 16",
    ]
    a, b = colours(one).values()
    assert band.panels[-1].colours == {1: (a,), 3: (a, b), 4: (a, b), 9: (NOBODY,)}
    assert [entry.text for entry in band.legend] == ["1 only a", "0 only b", "2 both", "1 in nobody's own best"]
    assert "a 3, b 2" in band.remark
    assert band.heading == "both"


def test_three_operands_have_several_owners():
    one = seen({"a": {1, 2}, "b": {2, 3}, "c": {2, 4}}, {1, 2})
    (band,) = bands_of([one])
    assert [entry.text for entry in band.legend][3:] == ["1 several", "0 in nobody's own best"]
    assert band.panels[3].caption == "in all 3: 1"
    # Six panels stand in two lines of three.
    assert band.across == 3


def test_lone_strategies_share_a_band():
    many = [seen({"a": {1}}, {1}, recipe=f"r{i}", site=f"decoder.{i}") for i in range(ACROSS + 1)]
    bands = bands_of(many)
    assert [len(band.panels) for band in bands] == [ACROSS, 1]
    assert bands[0].panels[0].caption == "r0: 1 of 16"
    assert bands[0].panels[1].caption == "r1 at decoder.1: 1 of 16"
    assert [band.heading for band in bands] == [None, None]


def test_a_sheet_is_white_around_its_panels_and_they_do_not_overlap():
    views = views_of(grey(), [grey()], grid())
    stages = [
        seen({"a": {1, 2}, "b": {2, 3}}, {2, 3}, recipe="x" * 200),
        seen({"a": {1}}, {1}, recipe="long name " * 9),
    ]
    result = sheet(views, bands_of(stages), "title " * 40, ["y" * 900, "a\nb\tc"])
    pixels = np.asarray(result.image)
    boxes = [
        (x, y, x + views[0].image.width, y + views[0].image.height) for panel in result.panels for x, y in panel.at
    ]
    for number, (left, top, right, bottom) in enumerate(boxes):
        assert MARGIN <= left < right <= result.image.width - MARGIN
        assert MARGIN <= top < bottom <= result.image.height - MARGIN
        # A line of paper around every panel: no text, no other panel.
        ring = np.concatenate(
            [
                pixels[top - 2 : top, left - 2 : right + 2].reshape(-1, 3),
                pixels[bottom : bottom + 2, left - 2 : right + 2].reshape(-1, 3),
                pixels[top:bottom, left - 2 : left].reshape(-1, 3),
                pixels[top:bottom, right : right + 2].reshape(-1, 3),
            ]
        )
        assert (ring == 255).all()
        for other in boxes[number + 1 :]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
    edge = np.concatenate([pixels[:10].reshape(-1, 3), pixels[:, -10:].reshape(-1, 3), pixels[-10:].reshape(-1, 3)])
    assert (edge == 255).all()


def test_lines_are_broken_between_words_where_that_is_possible():
    font = ImageFont.load_default(20)
    text = "some words of ordinary length and a" + "n" * 100 + "other"
    broken = lines(text, font, 150)
    assert all(font.getlength(line) <= 150 for line in broken)
    assert "".join(broken).replace(" ", "") == text.replace(" ", "")
    assert broken[0] == "some words of"
    assert lines("", font, 150) == [""]


def test_names_of_pictures_never_clash():
    files = [Path("a/x.png"), Path("b/x.jpg"), Path("x.2.png"), Path("c/x.jpg")]
    assert len(set(file_names(files))) == 4
    assert file_names(files)[0] == "x.kept.png"


# With a model


def test_the_photo_is_shown_as_the_model_sees_it(ready, photo):
    inputs = ready.inputs(photo, QUESTION)
    (crop,) = processed_images(ready, inputs)
    assert crop.size == (336, 336)
    width, height = photo.size
    square = photo.crop((0, (height - width) // 2, width, (height + width) // 2)).resize(
        (336, 336), Image.Resampling.BICUBIC
    )
    apart = np.abs(np.asarray(crop, dtype=float) - np.asarray(square, dtype=float))
    assert apart.mean() < 6
    assert token_grid(ready, inputs).tolist()[25] == [0, 0, 0, 1, 1]
    assert processed_images(ready, {"pixel_values": torch.zeros(576, 588)}) == []
    assert processed_images(ready, {}) == []


def test_what_is_lit_is_what_was_kept(ready, photo):
    registry = ts.default_registry()
    recipes = [ts.Recipe.load(name) for name in ("script", "fastv", "tome")]
    result = draw(ready, recipes, photo, "p.jpg", QUESTION, None, registry, None)
    (view,) = result.views
    assert isinstance(view, View)
    own, other, both, either = (panel.tokens for panel in result.panels[:4])
    assert own & other == both
    assert own | other == either
    final = {panel.recipe: panel for panel in result.panels if panel.caption.endswith("64 of 576")}
    assert set(final) == {"script", "fastv", "tome"}
    for recipe in recipes:
        with ts.prune(ready.model, recipe, processor=ready.processor) as run:
            ready.prefill(ready.inputs(photo, QUESTION))
        kept = set(run.kept(recipe.stages[0].at)[0].tolist())
        panel = final[recipe.name]
        assert panel.tokens == kept
        ((x, y),) = panel.at
        for token in range(576):
            left, top, right, bottom = inside(view, token)
            original = np.asarray(view.image.crop((left, top, right, bottom)), dtype=float)
            shown = np.asarray(result.image.crop((x + left, y + top, x + right, y + bottom)), dtype=float)
            expected = original if token in kept else original * DIM
            assert np.abs(shown - expected).max() <= 0.5


@pytest.mark.parametrize(("recipe", "layers"), [("pyramiddrop", "25 text layers"), ("tome-encoder", "24 vision")])
def test_an_example_is_as_deep_as_recipes_need_it(cli, recipe, layers):
    result = cli("show", recipe, "--image", PHOTO, "--out", "out")
    assert result.exit_code == 0, result.output
    assert layers in result.stderr


def test_show_writes_a_picture_for_each_image(cli, checkpoint, photo, tmp_path):
    photo.rotate(90, expand=True).save(tmp_path / "grace_hopper.png")
    options = ("--keep", "1/9", "--out", "new/folder", "--device", "cpu", "--model", checkpoint)
    result = cli("show", "script", "gsp", "--image", PHOTO, "--image", "grace_hopper.png", *options)
    assert result.exit_code == 0, result.output
    files = result.stdout.splitlines()
    assert files == ["new/folder/grace_hopper.kept.png", "new/folder/grace_hopper.2.kept.png"]
    with Image.open(files[0]) as first, Image.open(files[1]) as second:
        first.load()
        second.load()
    assert first.mode == "RGB"
    assert first.size == second.size
    assert first.width == 2 * MARGIN + 5 * PANEL + 4 * 28
    assert first.tobytes() != second.tobytes()


def test_show_makes_an_example_where_no_model_is_given(cli):
    result = cli("show", "random", "--image", PHOTO)
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("No model was given, so this is the example: ")
    assert "RANDOM WEIGHTS" in result.stderr
    assert Path("grace_hopper.kept.png").is_file()


def test_no_example_at_all(cli, monkeypatch):
    monkeypatch.setattr("tokensieve.plugins.registry.Registry.adapters", {})
    result = cli("show", "random", "--image", PHOTO)
    assert result.exit_code == 1
    assert result.stderr == "TokensieveError: no adapter brings an example checkpoint (none); give --model DIR\n"


def test_a_range_of_sites_inside_the_encoder_is_one_panel(ready, photo):
    """Where patches are the tokens, what merging in the tower leaves is drawn once, as its last layer leaves it."""
    merging, registry = ToMe(metric="keys"), ts.default_registry()
    stages = (
        *ts.Stage.each(at="encoder.0..2", select=merging, r=100, rest="merge"),
        ts.Stage(at="decoder.0", select=Norm(), keep=64),
    )
    result = draw(ready, [ts.Recipe(stages=stages)], photo, "p.jpg", QUESTION, None, registry, None)
    assert [(panel.site, len(panel.tokens)) for panel in result.panels] == [("encoder.2", 276), ("decoder.0", 64)]


def test_the_python_twin_draws_what_the_command_draws(ready, photo, tmp_path):
    registry = ts.default_registry()
    expected = draw(
        ready, [ts.Recipe.load("gsp & norm", keep=64)], photo, "the picture", QUESTION, None, registry, None
    )
    shown = ts.show(ready.model, "gsp & norm", photo, processor=ready.processor, prompt=QUESTION, keep=64)
    assert np.array_equal(np.asarray(shown.image), np.asarray(expected.image))
    shown.save(tmp_path / "kept.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "kept.png")), np.asarray(shown.image))
    assert shown._repr_png_().startswith(b"\x89PNG")
    width, height = shown.image.size
    assert repr(shown) == f"<Sheet of 5 panels, {width} x {height} pixels; .image, .save(path)>"
    # A transparent picture is on white, as the command reads its file.
    clear = photo.convert("RGBA")
    clear.putalpha(0)
    clear.save(file := tmp_path / "clear.png")
    settings = {"processor": ready.processor, "keep": 64}
    held, read = (ts.show(ready.model, "norm", one, **settings).views[0].image for one in (clear, file))
    assert np.array_equal(np.asarray(held), np.asarray(read))
    assert np.asarray(held).min() == 255
    several = ts.show(ready.model, ["gsp", ts.Recipe.load("tome")], PHOTO, processor=ready.processor, keep=64)
    assert [panel.recipe for panel in several.panels] == ["gsp", "tome"]
