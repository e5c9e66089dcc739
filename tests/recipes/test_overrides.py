"""Settings of a recipe on the command line: a recipe changed so is the one that is written so."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import tokensieve as ts
from tokensieve import Recipe
from tokensieve.errors import RecipeError

REGISTRY = ts.default_registry()
MINE = """\
name: mine
strategies:
  graph: {use: gsp, quantile: 0.75}
  bare: norm
stages:
- {at: decoder.0, select: graph & bare, keep: 64}
- {at: decoder.2, select: fastv & graph, keep: 1/9}
"""


def written(path, value, text=MINE):
    """Return a recipe of other data: read by PyYAML, changed, and written as JSON, which is YAML."""
    data = yaml.safe_load(text)
    *above, last = path
    here = data
    for step in above:
        here = here[step]
    here[last] = value
    return Recipe.loads(json.dumps(data), REGISTRY)


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("graph.quantile=0.5", ("strategies", "graph", "quantile"), 0.5),
        ("strategies.graph.quantile=0.5", ("strategies", "graph", "quantile"), 0.5),
        ("bare.p=1", ("strategies", "bare"), {"use": "norm", "p": 1}),
        ("strategies.graph={use: norm, p: 3}", ("strategies", "graph"), {"use": "norm", "p": 3}),
        ("positions=compact", ("positions",), "compact"),
        ("stages.1.keep=25%", ("stages", 1, "keep"), "25%"),
        ("stages.0.rest=merge", ("stages", 0, "rest"), "merge"),
        ("stages.0.select=quota(graph, bare, share=3/4)", ("stages", 0, "select"), "quota(graph, bare, share=3/4)"),
        (" stages.0.per = sample", ("stages", 0, "per"), "sample"),
    ],
)
def test_a_setting_is_what_the_file_would_say(setting, path, value):
    changed = Recipe.loads(MINE, REGISTRY, settings=[setting])
    assert changed == written(path, value)
    assert changed.hash() != Recipe.loads(MINE, REGISTRY).hash()


@given(st.fractions(0, 1, max_denominator=1000), st.integers(1, 500), st.sampled_from(["drop", "merge"]))
def test_settings_of_a_formula(quantile, keep, rest):
    """A formula has no file: its strategies get an entry, and its only stage is changed like any other."""
    decimal = f"{float(quantile):.4f}"
    given_ = [f"gsp.quantile={decimal}", f"stages.0.rest={rest}", "stages.0.at=decoder.1"]
    found = Recipe.load("gsp & norm", REGISTRY, keep=keep, settings=given_)
    stage = f"{{at: decoder.1, select: gsp & norm, keep: {keep}, rest: {rest}}}"
    assert found == Recipe.loads(
        f"name: gsp & norm\nstrategies: {{gsp: {{use: gsp, quantile: {decimal}}}}}\nstages: [{stage}]\n", REGISTRY
    )


def test_the_last_of_two_settings_counts():
    found = Recipe.load("gsp & norm", REGISTRY, keep=9, settings=["gsp.quantile=0.75", "gsp.quantile=0.25"])
    assert found.strategies["gsp"] == REGISTRY.strategy("gsp")(quantile=0.25)


def test_a_budget_or_a_setting_without_default_may_be_set():
    assert Recipe.load("~gsp", REGISTRY, settings=["stages.0.keep=1/4"]) == Recipe.load("~gsp", REGISTRY, keep="1/4")
    found = Recipe.load("replay | gsp", REGISTRY, keep=4, settings=["replay.path=kept.json"])
    assert found.strategies["replay"] == ts.replay("kept.json")
    with pytest.raises(ts.TokensieveError, match="'replay' has no default for every parameter"):
        Recipe.load("replay | gsp", REGISTRY, keep=4)


def test_a_file_and_a_shipped_recipe(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(MINE, encoding="utf-8")
    found = Recipe.load(file, REGISTRY, settings=["stages.1.keep=8"])
    assert found == Recipe.load(file, REGISTRY, keep=[64, 8])
    assert found.place(ts.Site.of("decoder.2")) == f"{file}:7"
    assert Recipe.load("script", REGISTRY, settings=["stages.0.keep=8"]) == Recipe.load("script", REGISTRY, keep=8)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("graph", "'graph' is no setting; write PATH=VALUE, such as gsp.quantile=0.75"),
        ("=3", "is no setting"),
        ("graph.quantile=", "--set graph.quantile=: the value is missing"),
        ("grpah.quantile=0.5", "no operand 'grpah'; it has bare (norm), fastv, graph (gsp). Did you mean 'graph'?"),
        ("gsp.quantile=0.5", "no operand 'gsp'; it has bare (norm), fastv, graph (gsp). Did you mean 'graph'?"),
        ("graph.quantil=0.5", "'gsp' has no parameter 'quantil'; it has"),
        ("graph.quantil=0.5", "Did you mean 'quantile'?  (--set graph.quantil=0.5)"),
        ("graph.quantile=much", "write a number  (--set graph.quantile=much)"),
        ("graph.use=gps", "Did you mean 'gsp'?  (--set graph.use=gps)"),
        ("quantile=0.5", "a recipe has no 'quantile'; write OPERAND.NAME=VALUE for a setting of a strategy"),
        ("positon=compact", "Did you mean 'positions'?"),
        ("keep=64", "a recipe has no 'keep'; it is a key of a stage: stages.0.keep=VALUE, or --keep VALUE"),
        ("rest=merge", "it is a key of a stage: stages.0.rest=VALUE"),
        ("quota.share=3/4", "'quota' is a composer, whose settings stand in the formula"),
        ("stages.2.keep=3", "stages has no entry '2'; it has 0 (decoder.0), 1 (decoder.2)"),
        ("stages.0.kep=3", "Did you mean 'keep'?  (--set stages.0.kep=3)"),
        ("stages.0.keep=x", "keep 'x' cannot be read"),
        ("stages.1.at=decoder.0", "the site decoder.0 stands twice; join both stages into one formula  (--set stages"),
        ("stages.0.select=graph &", "it ends where an operand is missing  (--set stages.0.select=graph &)"),
        ("name.x=3", "there is nothing inside name|has no 'x'"),
        ("graph.quantile=[1", "a bracket { or [ is not closed, or a comma is missing  (--set graph.quantile=[1"),
        ("trim.x=3", "no operand 'trim'; it has bare (norm), fastv, graph (gsp)"),
    ],
)
def test_settings_that_lead_nowhere(setting, said):
    with pytest.raises(ts.TokensieveError) as error:
        Recipe.loads(MINE, REGISTRY, "mine.yaml", [setting])
    assert any(one in str(error.value) for one in said.split("|"))


def test_a_mistake_elsewhere_names_its_line_or_nothing():
    with pytest.raises(ts.TokensieveError, match=r"\(mine\.yaml:4\)$"):
        Recipe.loads(MINE.replace("norm", "nrom"), REGISTRY, "mine.yaml", ["graph.quantile=0.5"])
    with pytest.raises(ts.TokensieveError, match=r"uses 'nrom', which is neither.*Did you mean 'norm'\?$"):
        Recipe.load("gsp & nrom", REGISTRY, keep=4, settings=["gsp.quantile=0.5"])
    with pytest.raises(RecipeError, match="'gsp & norm' is a formula, which needs a budget"):
        Recipe.load("gsp & norm", REGISTRY, settings=["gsp.quantile=0.75"])


def test_settings_are_for_text():
    recipe = Recipe.load("gsp", REGISTRY)
    with pytest.raises(RecipeError, match="settings change a recipe that is given as text"):
        ts.explain(recipe, settings=["gsp.quantile=0.5"])
    assert "with quantile 0.25" in str(ts.explain("gsp & norm", keep=4, settings=["gsp.quantile=0.25"]))
