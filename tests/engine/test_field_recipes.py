"""Recipes of the field on a whole model: exact budgets, sets that depend on them, and what is merged."""

import pytest
import torch

import tokensieve as ts
from tokensieve.errors import MissingEvidenceError
from tokensieve_strategies import HoloV, Norm, Pool, VisionZip

from .models import IMAGE, ONE, RAGGED, batch, generate, patches, prompts, shared

NAMES = (
    "cls-cdpp",
    "dycoke",
    "evs",
    "fastvid",
    "floc",
    "hiprune",
    "holov",
    "idpruner",
    "mmtok",
    "otprune",
    "pool",
    "prumerge-plus",
    "svdprune",
    "vidcom2",
    "visiontrim",
    "visionzip",
    "vispruner",
)


def offered(model):
    return ts.default_registry().adapter_for(model).offers(ts.Site.of("decoder.0"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keep", [1, "1/3", *(pytest.param(keep, marks=pytest.mark.nightly) for keep in (7, 16))])
@torch.no_grad()
def test_a_recipe_meets_its_budget_or_is_refused(name, keep):
    model = shared("sdpa")
    recipe = ts.Recipe.load(name).replace(keep=keep)
    rows = prompts(model, RAGGED)
    if recipe.stages[0].select.needs - offered(model):
        with pytest.raises(MissingEvidenceError), ts.prune(model, recipe):
            pytest.fail("it was let in")
        return
    with ts.prune(model, recipe) as run:
        together, _, _ = generate(model, rows, steps=3)
    n = patches(model)
    k = {"1/3": n // 3}.get(keep, keep)
    kept = [ids.tolist() for ids in run.kept("decoder.0")]
    assert [len(ids) for ids in kept] == [k * row.images for row in rows]
    assert all(ids == sorted(set(ids)) for ids in kept)
    for number, row in enumerate(rows):
        # Each image has its own budget, and a row alone keeps and says the same.
        assert all(sum(i // n == image for i in kept[number]) == k for image in range(row.images))
        with ts.prune(model, recipe) as run:
            alone, _, _ = generate(model, [row], steps=3)
        assert run.kept("decoder.0")[0].tolist() == kept[number]
        assert torch.equal(alone[0], together[number])


def entering(model, rows, recipe):
    """The vectors that enter the language model."""
    seen = []
    language = model.model.language_model
    handle = language.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"].clone()), with_kwargs=True
    )
    try:
        with ts.prune(model, recipe) as run:
            model(**batch(rows))
    finally:
        handle.remove()
    return seen[0], run


@pytest.mark.parametrize("k", [4, 16, 1])
@torch.no_grad()
def test_pooling_is_average_pooling_of_the_projected_picture(k):
    model = shared("sdpa")
    [row] = prompts(model, ONE)
    vectors, run = entering(model, [row], ts.Recipe.load("pool").replace(keep=k))
    projected = model.model.get_image_features(row.pixels).pooler_output[0]
    side = round((patches(model) / k) ** 0.5)
    width = round(patches(model) ** 0.5)
    square = projected.T.reshape(1, -1, width, width)
    expected = torch.nn.functional.avg_pool2d(square, side).flatten(2)[0].T
    start = row.words.index(IMAGE)
    torch.testing.assert_close(vectors[0, start : start + k], expected, atol=1e-5, rtol=1e-4)
    assert len(run.kept("decoder.0")[0]) == k


@torch.no_grad()
def test_visionzip_s_dominant_tokens_are_themselves_and_the_rest_is_a_mean():
    model = shared("sdpa")
    [row] = prompts(model, ONE)
    # Of eight, six are dominant, and two stand for the ten others.
    recipe = ts.Recipe.of(VisionZip(share=0.75), 8, rest="merge")
    vectors, run = entering(model, [row], recipe)
    projected = model.model.get_image_features(row.pixels).pooler_output[0]
    ids = run.kept("decoder.0")[0]
    start = row.words.index(IMAGE)
    found = vectors[0, start : start + 8]
    same = (found - projected[ids]).abs().amax(dim=1) < 1e-6
    assert same.sum() >= 6
    # All that is not dominant is in one of the two: their sum, each by its number of tokens, is the whole.
    changed = (~same).nonzero().flatten()
    dominant = ids[same]
    rest = [i for i in range(patches(model)) if i not in dominant.tolist()]
    assert len(changed) == 2
    sizes = torch.arange(1, len(rest)).double()
    total = projected[rest].double().sum(dim=0)
    sums = [s * found[changed[0]].double() + (len(rest) - s) * found[changed[1]].double() for s in sizes]
    assert min((one - total).abs().max() for one in sums) < 1e-4


@torch.no_grad()
def test_sets_that_depend_on_the_budget_stand_in_formulas_with_a_size():
    model = shared("sdpa")
    rows = prompts(model, RAGGED)
    n = patches(model)
    for formula in (VisionZip()[9] & HoloV(runs=4), Norm()[12] >> VisionZip(), Pool()[4] | Norm()):
        with ts.prune(model, formula, keep=5) as run:
            model(**batch(rows))
        assert [len(ids) for ids in run.kept("decoder.0")] == [5 * row.images for row in rows]
    # Inside the decoder, of what an earlier stage left, a part of each image.
    stages = (
        ts.Stage(at="decoder.0", select=VisionZip(), keep=12, rest="merge"),
        ts.Stage(at="decoder.2", select=Pool(), keep="1/2", rest="merge"),
    )
    with ts.prune(model, ts.Recipe(stages=stages)) as run:
        model(**batch(rows))
    assert [len(ids) for ids in run.kept("decoder.2")] == [6 * row.images for row in rows]
    assert n == 16
