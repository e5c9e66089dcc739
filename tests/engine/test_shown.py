"""What runs, recipes, chains and selections show of themselves, in a shell and in a notebook."""

import base64
import gc
import io
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

import tokensieve as ts
from tokensieve.algebra.markup import PALETTE, bars, grid, table
from tokensieve.ledger.seen import Seen

from .models import ONE, batch, llava, prompts

VOID = {"br"}


class Page(HTMLParser):
    """Checks that elements close, and gathers what is in them."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def lit(self):
        rects = [attrs for tag, attrs in self.elements if tag == "rect"]
        return [number for number, one in enumerate(rects) if one["fill"] == PALETTE[0]]


@pytest.fixture(scope="module")
def ran():
    model = llava(layers=2)
    handle = ts.prune(model, "gsp & norm", keep=4)
    with handle as run, torch.no_grad():
        before = repr(run), run._repr_html_()
        model(**batch(prompts(model, ONE)))
    return run, before


def test_a_run(ran):
    run, before = ran
    assert before[0] == "<Run of 'gsp & norm' on llava, nothing has run yet>"
    assert "nothing has run yet" in Page(before[1]).words
    assert repr(run) == "<Run of 'gsp & norm' on llava, 1 prefill, the latest: decoder.0 16 -> 4>"
    page = Page(run._repr_html_())
    assert page.lit() == run.kept("decoder.0")[0].tolist()
    words = "".join(page.words)
    assert "gsp & norm on llava" in words
    for name, share in run.latest.stages[0].samples[0].shares.items():
        assert f"{name} {share:.0%}" in words


def test_kept_tokens_lie_over_the_picture_while_the_caller_holds_it():
    model = llava(layers=2)
    inputs = batch(prompts(model, ONE))
    with ts.prune(model, "norm", keep=4) as run, torch.no_grad():
        model(**inputs)
    page = Page(run._repr_html_())
    [picture] = [attrs for tag, attrs in page.elements if tag == "image"]
    head, _, data = picture["href"].partition(",")
    assert head == "data:image/png;base64"
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), dtype=float)
    pixels = inputs["pixel_values"][0].permute(1, 2, 0).numpy()
    assert drawn.shape == pixels.shape
    assert np.corrcoef(drawn.ravel(), pixels.ravel())[0, 1] > 0.999
    # A frame for each token that stays, where it was in the picture.
    frames = [one for tag, one in page.elements if tag == "rect" and one["fill"] == "none"]
    side = int(frames[0]["width"])
    found = sorted(int(one["y"]) // side * 4 + int(one["x"]) // side for one in frames)
    assert found == run.kept("decoder.0")[0].tolist()
    assert int(picture["width"]) == int(picture["height"]) == 4 * side
    # The ledger does not hold the picture itself.
    inputs.clear()
    gc.collect()
    assert "<image" not in run._repr_html_()
    assert Page(run._repr_html_()).lit() == found


def test_tokens_of_several_pictures_are_shown_by_id():
    seen = Seen(np.array([[[0, 0, 0, 0, 0], [1, 0, 0, 0, 0]]]), (2,), None)
    assert seen.places(0) is None
    assert Seen(np.array([[[0, 0, 0, 0, -1]]]), (1,), None).places(0) is None
    assert Seen(np.array([[[0, 0, 0, 1, 2], [0, 0, 0, 0, 0]]]), (1,), None).places(0) == [(1, 2)]


def test_a_recipe():
    stages = "- {at: encoder.0..2, select: tome, r: 2}\n- {at: decoder.0, select: 'gsp & qcsp', keep: 9}\n"
    recipe = ts.Recipe.loads(f"name: <b>two</b>\nstages:\n{stages}")
    assert repr(recipe) == "<Recipe '<b>two</b>': encoder.0..2: tome, r 2; decoder.0: gsp & qcsp, keep 9>"
    words = Page(recipe._repr_html_()).words
    assert "<b>two</b>" in words
    assert {"encoder.0..2", "gsp & qcsp", "keep 9"} <= set(words)


def test_a_chain_and_a_selection():
    universe = ts.Universe.of_counts([4, 2])
    chain = ts.Chain.from_scores(universe, torch.tensor([[0.1, 0.9, 0.5, 0.2], [1.0, 2.0, 0.0, 0.0]]), "x")
    assert repr(chain) == "<Chain of 2 x 4 tokens, one order, right in all levels>"
    page = Page(chain._repr_html_())
    strengths = [float(one["fill-opacity"]) for tag, one in page.elements if tag == "rect"]
    # The best is the brightest, and padding is no token.
    assert len(strengths) == 6
    assert sorted(range(4), key=lambda token: -strengths[token]) == [1, 2, 3, 0]
    tokens = ts.Tokens.of(torch.tensor([[[3.0], [1.0], [2.0]]]))
    norm = ts.default_registry().strategy("norm")()
    taken = ts.select(norm, tokens, ts.Keep.of(2))
    assert repr(taken).startswith("<Selection of 2 of 3 places, read to ")
    page = Page(taken._repr_html_())
    assert page.lit() == taken.mask[0].nonzero().flatten().tolist()
    assert "100%" in "".join(page.words)


def test_what_is_shown_loads_nothing_and_is_escaped(ran):
    run, _ = ran
    for text in (run._repr_html_(), run.recipe._repr_html_()):
        assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in Page(text).elements}
        assert "http" not in text.replace(run.recipe.paper or "http", "")
    nasty = "<script>alert('x')</script>"
    for text in (grid([1.0], nasty), bars({nasty: 0.5}), table(nasty, [nasty], [], nasty)):
        assert "<script" not in text


@pytest.mark.parametrize("n", [0, 1, 3, 16, 17])
def test_a_grid_has_every_token_inside(n):
    elements = Page(grid([1.0] * n, "x")).elements
    size = next(one for tag, one in elements if tag == "svg")
    rects = [one for tag, one in elements if tag == "rect"]
    assert len({(one["x"], one["y"]) for one in rects}) == n
    assert all(int(one["x"]) < int(size["width"]) and int(one["y"]) < int(size["height"]) for one in rects)
