"""Where patches are is taken from the call, and not guessed from their number."""

import pytest
import timm
import torch

import tokensieve as ts
from tokensieve import Evidence, Scorer
from tokensieve.errors import RefusedError
from tokensieve.models.layouts import raster, squares
from tokensieve.testing.prompts import Prompts, randomize_weights
from tokensieve_adapters.llava_onevision import LlavaOnevisionAdapter
from tokensieve_adapters.timm_vit import TimmVitEncoder

from .models import ONE, batch, prompts, shared

SEEN = []


class Places(Scorer):
    """Remembers where tokens are."""

    name = "places"

    @property
    def needs(self):
        return frozenset({Evidence.GRID})

    def score(self, tokens):
        SEEN.append(tokens.grid)
        return torch.arange(tokens.valid.shape[1]).expand(tokens.valid.shape).double()


def vit(**settings):
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 10}
    model = timm.create_model("vit_tiny_patch16_224", **size | settings)
    randomize_weights(model, 1)
    return model.eval()


@torch.no_grad()
def seen(model, *size):
    SEEN.clear()
    with ts.prune(model, ts.Recipe(stages=(ts.Stage(at="encoder.0", select=Places(), keep=3, rest="drop"),))):
        model(torch.zeros(2, 3, *size))
    (grid,) = SEEN
    return grid


@pytest.mark.parametrize("rows_and_columns", [(4, 4), (2, 8), (8, 2), (1, 16), (4, 9), (3, 5), (1, 7)])
def test_a_dynamic_image_size(rows_and_columns):
    rows, columns = rows_and_columns
    grid = seen(vit(dynamic_img_size=True), rows * 8, columns * 8)
    assert torch.equal(grid[..., 1:], raster(rows, columns).expand(2, -1, -1))


def test_padding_adds_patches():
    grid = seen(vit(dynamic_img_size=True, dynamic_img_pad=True), 15, 60)
    assert torch.equal(grid[0, :, 1:], raster(2, 8))


def test_an_oblong_size_of_its_own():
    assert torch.equal(seen(vit(img_size=(16, 64)), 16, 64)[0, :, 1:], raster(2, 8))


def test_sizes_one_after_the_other():
    model = vit(dynamic_img_size=True)
    for rows, columns in ((4, 4), (2, 8), (4, 4)):
        assert torch.equal(seen(model, rows * 8, columns * 8)[0, :, 1:], raster(rows, columns))


def test_numbers_alone_are_refused():
    with pytest.raises(RefusedError, match="where 36 patches are is not known: the model's own grid is 4 x 4"):
        TimmVitEncoder(vit()).layout(36)
    with pytest.raises(RefusedError, match="where 16 patches are is not known"):
        TimmVitEncoder(vit(dynamic_img_size=True)).layout(16)


def test_nothing_is_left_in_the_model():
    model = vit(dynamic_img_size=True)
    seen(model, 16, 64)
    assert not model.patch_embed._forward_hooks


@torch.no_grad()
def test_oblong_images_of_llava_are_refused():
    """The tower takes them if positions are interpolated; 4 x 16 patches are as many as 8 x 8."""
    model = shared("sdpa")
    side = model.config.vision_config.image_size
    rows = prompts(model, ONE)
    inputs = batch(rows)
    inputs["pixel_values"] = torch.zeros(1, 3, side // 2, side * 2)
    plain = model(**inputs, interpolate_pos_encoding=True)
    assert plain.logits.isfinite().all()
    for at in ("decoder.0", "encoder.0"):
        with (
            ts.prune(model, ts.Recipe(stages=(ts.Stage(at=at, select=Places(), keep=3, rest="drop"),))),
            pytest.raises((RefusedError, ValueError), match=r"laid out for squares|doesn't match model"),
        ):
            model(**inputs, interpolate_pos_encoding=True)


@torch.no_grad()
def test_oblong_tiles_are_refused():
    """Packing takes every tile for a square, and the tower takes what has as many patches."""
    model = randomize_weights(LlavaOnevisionAdapter.tiny()).eval()
    made = Prompts(model, LlavaOnevisionAdapter(model))
    inputs = made.batch([made.row([2, ("image", 1), 3], 0)])
    side = inputs["pixel_values"].shape[-1]
    inputs["pixel_values"] = torch.zeros(*inputs["pixel_values"].shape[:-2], side // 2, side * 2)
    assert model(**inputs).logits.isfinite().all()
    with ts.prune(model, Places(), keep=3), pytest.raises(RefusedError, match=f"laid out for {side} x {side}"):
        model(**inputs)


def test_squares():
    assert torch.equal(squares([4], None)[0], raster(2, 2))
    assert [len(one) for one in squares([4, 9], torch.zeros(2, 3, 8, 8))] == [4, 9]
    for counts, pixels in (([8], None), ([16], torch.zeros(1, 3, 2, 8)), ([16], [torch.zeros(3, 8, 2)])):
        with pytest.raises(RefusedError, match=r"squares|no square grid"):
            squares(counts, pixels)
