"""A recipe is wanted, and a text is given: a name, a path, or a formula."""

import pytest

import tokensieve as ts
from tokensieve import Recipe
from tokensieve.errors import FormulaError, RecipeError, UnknownRecipeError, UnknownStrategyError
from tokensieve.recipes.source import kind_of

REGISTRY = ts.default_registry()
MINE = "name: mine\nstages:\n- {at: decoder.0, select: norm, keep: 3}\n"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("gsp", "name"),
        ("prumerge-plus", "name"),
        ("cdpp", "formula"),
        ("gsp & qcsp", "formula"),
        ("gsp&qcsp", "formula"),
        ("gsp-qcsp", "formula"),
        ("gsp - qcsp", "formula"),
        ("~norm", "formula"),
        ("norm[8]", "formula"),
        ("quota(gsp, norm, share=3/4)", "formula"),
        ("quota(gsp, norm, share=0.75)", "formula"),
        ("gsp & qscp", "formula"),
        ("nowhere/r", "path"),
        ("r.yaml", "path"),
        ("my recipes (old)/a & b.yaml", "path"),
        ("r.json", "path"),
    ],
)
def test_what_a_text_is(text, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert kind_of(text, REGISTRY) == kind


def test_a_file_that_is_there_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a & b", "plain"):
        (tmp_path / name).write_text(MINE, encoding="utf-8")
        assert kind_of(name, REGISTRY) == "path"
        assert Recipe.load(name, REGISTRY).name == "mine"


@pytest.mark.parametrize(
    "text", ["gsp & qcsp", "cdpp", "~norm", "quota(gsp, norm, share=3/4)", "(gsp | norm)[9] - qcsp"]
)
def test_a_formula_is_the_recipe_that_has_it(text):
    written = Recipe.loads(f'name: "{text}"\nstages:\n- {{at: decoder.0, select: "{text}", keep: 12}}\n', REGISTRY)
    assert Recipe.load(text, REGISTRY, keep=12) == written
    assert Recipe.load(f"  {text}\n", REGISTRY, keep=[12]) == written


def test_keep_overrides_what_a_recipe_says():
    assert Recipe.load("gsp", REGISTRY, keep="1/4") == Recipe.load("gsp", REGISTRY).replace(keep="1/4")


@pytest.mark.parametrize(
    ("text", "keep", "kind", "said"),
    [
        ("gsp & qcsp", None, RecipeError, r"'gsp & qcsp' is a formula, which needs a budget: keep=64, or --keep 64"),
        ("gsp & qcsp", [3, 2], RecipeError, r"has 1 stage \(decoder\.0\), so keep takes 1 budget, not 2"),
        ("gsp & qscp", 3, UnknownStrategyError, r"'qscp'.*Did you mean 'qcsp'\?"),
        ("gsp & script", 3, FormulaError, "'script' is a recipe, which is no operand: write the formula"),
        ("gsp & ", 3, FormulaError, "is not a formula"),
        ("gps", 3, UnknownRecipeError, r"no shipped recipe is named 'gps'.*no strategy.*Did you mean 'gsp'\?"),
        ("nrm", 3, UnknownRecipeError, r"Did you mean 'norm'\?"),
        ("", 3, UnknownRecipeError, "is named ''"),
        ("r.yml", 3, RecipeError, r"there is no file r\.yml"),
    ],
)
def test_what_is_wrong_is_said(text, keep, kind, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=said):
        Recipe.load(text, REGISTRY, keep=keep)
