"""What a server is told, and what it refuses when it starts."""

import json

import pytest

import tokensieve as ts
from tokensieve.errors import (
    BudgetError,
    MissingEvidenceError,
    RecipeError,
    RefusedError,
    SettingError,
    TokensieveError,
)
from tokensieve.serving.families import ServedFamily
from tokensieve.serving.refusals import served_stage
from tokensieve.serving.settings import ServedSettings, written
from tokensieve_strategies import Norm

REGISTRY = ts.default_registry()
LLAVA = ServedFamily("llava", "LlavaForConditionalGeneration")


def load(**settings):
    return ServedSettings.read(settings).load(REGISTRY)


@pytest.mark.parametrize("name", ["script", "divprune", "two-of-three", "pool", "script-merge"])
def test_settings_hold_the_whole_content_of_a_recipe(name):
    recipe = ts.Recipe.load(name, REGISTRY).replace(keep="1/9", positions="compact")
    # As a server hands them on: through a command line, and into other processes.
    settings = json.loads(json.dumps(written(recipe)))
    assert ServedSettings.read(settings).load(REGISTRY).hash() == recipe.hash()


def test_names_files_and_formulas_are_read(tmp_path):
    wanted = ts.Recipe.load("divprune", REGISTRY, keep="1/9").replace(positions="compact")
    file = tmp_path / "mine.yaml"
    wanted.dump(file)
    assert load(recipe="divprune", keep="1/9", positions="compact") == wanted
    assert load(recipe=str(file)).hash() == wanted.hash()
    assert load(recipe="norm & random", keep=16).positions == "original"
    assert str(load(recipe=wanted.to_dict(), keep=0.25).stages[0].keep) == "1/4"


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ("divprune", SettingError, "the settings of tokensieve are 'divprune'; a mapping is wanted, such as"),
        ({}, SettingError, "the settings of tokensieve: recipe: it has no default, so give a value"),
        ({"recipe": "norm", "kep": 4}, SettingError, "no parameter 'kep'.*Did you mean 'keep'"),
        ({"recipe": "nrm", "keep": 4}, TokensieveError, "Did you mean 'norm'"),
        ({"recipe": "norm", "keep": "many"}, BudgetError, "many"),
        ({"recipe": "norm", "positions": "left"}, SettingError, "positions"),
        ({"recipe": {"name": "x", "stages": []}}, RecipeError, "stage"),
    ],
)
def test_wrong_settings_are_told(settings, error, said):
    with pytest.raises(error, match=said):
        ServedSettings.read(settings).load(REGISTRY)


@pytest.mark.parametrize(
    ("recipe", "error", "said"),
    [
        ("fastv", RefusedError, r"cuts at decoder\.2; a plugin of a server sees visual tokens between the projector"),
        ("tome-encoder", RefusedError, r"cuts at encoder\.0"),
        ("pyramiddrop", RefusedError, r"cuts at decoder\."),
        ("visionzip", MissingEvidenceError, "reads vision_attention.* hand on features, grid, query, sizes"),
        ("hiprune", MissingEvidenceError, "reads vision_middle, vision_received|reads vision_"),
        ("divprune", RefusedError, "has positions: original; in a server the tokens of a prompt of llava have"),
    ],
)
def test_shipped_recipes_that_a_server_cannot_run_are_refused(recipe, error, said):
    with pytest.raises(error, match=said):
        served_stage(ts.Recipe.load(recipe, REGISTRY), LLAVA)


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ({"per": "sample"}, "has per: sample, one budget for all pictures of a prompt.*Serve it with per: image"),
    ],
)
def test_counts_that_the_grid_does_not_say_are_refused(stage, said):
    recipe = ts.Recipe.of(Norm(), 4, positions="compact", **stage)
    with pytest.raises(RefusedError, match=said):
        served_stage(recipe, LLAVA)


class Long(ts.Chooser):
    """Chooses vectors longer than one."""

    name = "long"
    needs = frozenset({ts.Evidence.FEATURES})

    def choose(self, tokens):
        return ts.Chain.from_set(tokens.universe, tokens.valid & (tokens.features.norm(dim=-1) > 1), self)


def test_a_set_of_its_own_size_is_refused():
    with pytest.raises(RefusedError, match=r"as its formula finds \(keep: auto\); a server lays out a prompt before"):
        served_stage(ts.Recipe.of(Long(), "auto", positions="compact"), LLAVA)


def test_merging_is_refused_where_features_are_added_inside_the_language_model():
    recipe = ts.Recipe.load("script-merge", REGISTRY).replace(positions="compact")
    served_stage(recipe, LLAVA)
    deep = ServedFamily("qwen3_vl", "Qwen3VLForConditionalGeneration", merges=False)
    with pytest.raises(RefusedError, match=r"merges tokens \(rest: merge\); qwen3_vl adds features"):
        served_stage(recipe, deep)


def test_what_can_be_served_is_its_one_stage():
    recipe = ts.Recipe.load("script", REGISTRY).replace(positions="compact")
    assert served_stage(recipe, LLAVA) is recipe.stages[0]
