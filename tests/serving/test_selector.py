"""What a server keeps of pictures is what `prune` keeps of them in a prompt; how many, follows from the grid."""

import functools
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForImageTextToText, AutoProcessor

import tokensieve as ts
from tokensieve.errors import RefusedError
from tokensieve.serving.families import ServedFamily
from tokensieve.serving.selector import PictureSelector, Raster
from tokensieve.tasks.world import World
from tokensieve_strategies import Norm

LLAVA = ServedFamily("llava", "LlavaForConditionalGeneration")
CHECKPOINT = ts.default_registry().checkpoint("world-llava")
GRID = Raster(1, 12, 12)
SAMPLES = World(pictures=4).samples()[:6]


@functools.cache
def loaded():
    model = AutoModelForImageTextToText.from_pretrained(CHECKPOINT.folder).eval()
    return model, AutoProcessor.from_pretrained(CHECKPOINT.folder)


def selector(recipe, **changes):
    loaded = ts.Recipe.load(recipe, keep=changes.pop("keep", "1/9"))
    return PictureSelector(loaded.replace(positions="compact", **changes), LLAVA)


def asked(sample, pictures=1):
    """The inputs of a question about a picture, shown so many times."""
    _, processor = loaded()
    content = [{"type": "image"}] * pictures + [{"type": "text", "text": sample.question}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return processor(images=[World().picture(sample)] * pictures, text=prompt, return_tensors="pt")


@torch.no_grad()
def vectors(inputs):
    """The projected features of pictures, and the vectors of a text."""
    model, _ = loaded()
    return torch.stack(list(model.model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output))


@torch.no_grad()
def words(text):
    model, processor = loaded()
    ids = processor.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
    return model.get_input_embeddings()(ids)


@torch.no_grad()
def pruned(recipe, inputs, **options):
    """The kept ids of `prune`, and what enters the language model of them."""
    model, processor = loaded()
    entered = {}
    hook = model.model.language_model.register_forward_pre_hook(
        lambda _, args, given: entered.update(given), with_kwargs=True
    )
    with ts.prune(model, recipe, processor=processor, **options) as run:
        model(**inputs)
    hook.remove()
    return run.kept("decoder.0")[0], entered["inputs_embeds"][0]


@pytest.mark.parametrize(
    "recipe",
    ["script", "divprune", "norm", "random", "uniform", "pool", "tome", "script-merge", "script-union"],
)
def test_what_stays_is_what_prune_keeps(recipe):
    served = selector(recipe)
    inputs = [asked(sample) for sample in SAMPLES]
    features = torch.cat([vectors(one) for one in inputs])
    questions = [words(sample.question) for sample in SAMPLES]
    # All at once, as a server has pictures of several requests.
    selected = served.select(features, GRID, questions)
    assert selected.ids.shape == (6, served.count(GRID))
    for number, one in enumerate(inputs):
        kept, entered = pruned(recipe, one, keep="1/9", positions="compact")
        assert selected.ids[number].tolist() == kept.tolist()
        first = one["input_ids"][0].tolist().index(loaded()[0].config.image_token_id)
        theirs = entered[first : first + len(kept)]
        torch.testing.assert_close(selected.features[number], theirs, rtol=1e-5, atol=1e-5)


@given(
    grid=st.builds(Raster, st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)),
    keep=st.one_of(st.integers(1, 80), st.fractions(Fraction(1, 50), 1, max_denominator=50)),
    per=st.sampled_from(["image", "frame", "tile"]),
)
def test_how_many_stay_is_known_from_the_grid(grid, keep, per):
    recipe = ts.Recipe.of(Norm(), keep, per=per, positions="compact")
    served = PictureSelector(recipe, LLAVA)
    frames = [grid.rows * grid.columns] * grid.frames if per == "frame" else [grid.tokens]
    wanted = sum(min(keep, n) if isinstance(keep, int) else max(1, int(n * keep)) for n in frames)
    assert served.count(grid) == wanted
    features = torch.randn(2, grid.tokens, 4, generator=torch.Generator().manual_seed(0))
    selected = served.select(features, grid)
    assert selected.ids.shape == (2, wanted)
    assert bool((selected.ids.diff(dim=1) > 0).all())
    torch.testing.assert_close(
        selected.features, torch.stack([features[row, ids] for row, ids in enumerate(selected.ids)])
    )


@pytest.mark.parametrize("recipe", ["divprune", "script"])
def test_pictures_of_several_grids_keep_their_order(recipe):
    served = selector(recipe, keep="1/4")
    draw = torch.Generator().manual_seed(0)
    grids = [Raster(1, 4, 6), Raster(2, 3, 2), Raster(1, 4, 6), Raster(1, 6, 4), Raster(2, 3, 2)]
    features = [torch.randn(grid.tokens, 8, generator=draw) for grid in grids]
    questions = [torch.randn(number + 1, 8, generator=draw) for number in range(len(grids))]
    each = served.select_each(features, grids, questions)
    for number, grid in enumerate(grids):
        alone = served.select(features[number].unsqueeze(0), grid, [questions[number]])
        assert torch.equal(each[number][0], alone.features[0])
        assert torch.equal(each[number][1], alone.ids[0])


@pytest.mark.parametrize(("recipe", "numbered"), [("random", True), ("divprune", False), ("script", False)])
def test_choices_by_number_are_known(recipe, numbered):
    """Two equal pictures in one prompt keep the same tokens, unless these are drawn by their numbers."""
    assert selector(recipe).reads_numbers == numbered
    kept, _ = pruned(recipe, asked(SAMPLES[0], pictures=2), keep="1/9", positions="compact")
    first, second = kept[kept < GRID.tokens], kept[kept >= GRID.tokens] - GRID.tokens
    assert (first.tolist() != second.tolist()) == numbered


@pytest.mark.parametrize("change", [{"rest": "merge"}, {"per": "tile"}])
def test_a_draw_inside_a_formula_is_known(change):
    recipe = ts.Recipe.load("norm ^ random | random", keep=16).replace(positions="compact")
    stage = recipe.stages[0].model_copy(update=change)
    assert PictureSelector(recipe.replace(stages=[stage]), LLAVA).reads_numbers


def test_another_number_of_tokens_is_refused():
    with pytest.raises(RefusedError, match=r"a picture has 9 visual tokens, and Raster\(.*\) has 8"):
        selector("norm").select(torch.zeros(1, 9, 4), Raster(1, 2, 4))


def test_a_missing_question_is_refused():
    served = selector("script")
    assert served.reads_questions
    with pytest.raises(RefusedError, match="judges tokens by a question, and there are 0 questions for 2 pictures"):
        served.select(torch.zeros(2, 8, 4), Raster(1, 2, 4))


@pytest.mark.parametrize("over", ["sample", "batch"])
def test_a_mean_that_pictures_share_is_no_count_of_a_picture(over):
    with pytest.raises(RefusedError, match="has keep: mean 1/9, which pictures share by what each needs"):
        PictureSelector(ts.Recipe.load("divprune-shared", settings=[f"stages.0.over={over}"]), LLAVA)
