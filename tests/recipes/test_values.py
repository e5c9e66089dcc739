"""Recipes as values: writing, hashing, changing, and their schema."""

import json

import jsonschema
import pytest
import yaml
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st

import tokensieve as ts
from tokensieve import Keep, Recipe, Stage
from tokensieve.errors import BudgetError, RecipeError, SettingError
from tokensieve.sites import Site

REGISTRY = ts.default_registry()
NORM, GSP, QCSP, RANDOM = (REGISTRY.strategy(name) for name in ("norm", "gsp", "qcsp", "random"))

LEAVES = st.one_of(
    st.builds(NORM, p=st.sampled_from([1.0, 2.0, 3.0])),
    st.builds(GSP, quantile=st.sampled_from([0.25, 0.5]), gamma=st.sampled_from([0.0, 1.0])),
    st.builds(RANDOM, seed=st.integers(0, 3)),
    st.just(QCSP()),
)
KEEPS = st.sampled_from([1, 7, 64, "1/3", "0.4", "25%", "100%", 0.2, Keep(less=8), Keep(less=0)])
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda a, b: a & b, inner, inner),
        st.builds(lambda a, b: a | b, inner, inner),
        st.builds(lambda a, b: a - b, inner, inner),
        st.builds(lambda a, b: a[9] >> b, inner, inner),
        st.builds(lambda a: ~a, inner),
        st.builds(lambda a, m: a[m], inner, st.sampled_from([3, "1/2", 1.0])),
        st.builds(lambda a, b: REGISTRY.composer("quota").of(a, b, share=0.75), inner, inner),
        st.builds(lambda a, b: REGISTRY.composer("weighted").of(a, b, weights=[2, 0.5]), inner, inner),
        st.builds(lambda a: REGISTRY.composer("per_group").of(a, by="tile"), inner),
    ),
    max_leaves=6,
)


@st.composite
def recipes(draw):
    sites = draw(st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True))
    stages = tuple(
        Stage(
            at=Site("decoder", block),
            select=draw(EXPRESSIONS),
            keep=draw(KEEPS),
            per=draw(st.sampled_from(["image", "tile", "sample"])),
            rest=draw(st.sampled_from(["drop", "merge"])),
            by=draw(st.none() | LEAVES),
            newlines=draw(st.sampled_from(["judge", "keep", "drop"])),
        )
        for block in sorted(sites)
    )
    return Recipe(name=draw(st.sampled_from(["a", "é", "on", "1"])), stages=stages)


@settings(max_examples=examples(150))
@given(recipes())
def test_what_is_dumped_is_loaded_as_the_same(recipe):
    again = Recipe.loads(recipe.dump(), REGISTRY)
    assert again.stages == recipe.stages
    assert again.hash() == recipe.hash()
    assert Recipe.loads(again.dump(), REGISTRY) == again


def test_the_hash_follows_behaviour_and_not_names():
    base = Recipe.of(NORM() & GSP(), 64, name="one")
    stage = base.stages[0]
    assert base.replace(name="two", paper="p").hash() == base.hash()
    named = base.dump().replace("name: one", "name: one\nstrategies: {u: {use: norm}}").replace("norm & gsp", "u & gsp")
    assert Recipe.loads(named, REGISTRY).hash() == base.hash()
    others = [
        base.replace(keep=65),
        base.replace(keep="1/9"),
        base.replace(positions="compact"),
        Recipe.of(GSP() & NORM(), 64),
        Recipe.of(NORM(p=3.0) & GSP(), 64),
        Recipe.of(NORM() & GSP(), 64, at="decoder.2"),
        *(
            base.replace(stages=(stage.model_copy(update={key: value}),))
            for key, value in (("per", "tile"), ("rest", "merge"), ("by", NORM()), ("newlines", "drop"))
        ),
    ]
    hashes = {recipe.hash() for recipe in (base, *others)}
    assert len(hashes) == len(others) + 1


def test_a_budget_of_its_own_for_every_stage():
    two = Recipe(
        stages=(
            Stage(at="decoder.0", select=NORM(), keep=64),
            Stage(at="decoder.2", select=NORM(), keep=32),
        )
    )
    assert [str(s.keep) for s in two.replace(keep=["1/2", 16]).stages] == ["1/2", "16"]
    with pytest.raises(RecipeError, match=r"has 2 stages \(decoder.0, decoder.2\), so keep takes 2 budgets, not 1"):
        two.replace(keep=64)
    with pytest.raises(BudgetError):
        Recipe.of(NORM(), 64).replace(keep=0)
    with pytest.raises(RecipeError, match="color"):
        two.replace(color="red")


SCHEDULE = """
name: schedule
stages:
  - {at: decoder.3, select: norm, keep: 300}
  - {at: decoder.7, select: norm, keep: 200}
budgets:
  192: [300, 200]
  64: [66, 1/3]
"""


def test_a_recipes_own_budgets_go_by_the_name_papers_give_them():
    recipe = Recipe.loads(SCHEDULE, REGISTRY)
    assert [str(stage.keep) for stage in recipe.stages] == ["300", "200"]
    for name in (64, "64", [64]):
        assert [str(stage.keep) for stage in recipe.replace(keep=name).stages] == ["66", "1/3"]
    # The list itself is still a budget, and the names outlive a change.
    assert [str(stage.keep) for stage in recipe.replace(keep=[64, 32]).stages] == ["64", "32"]
    assert recipe.replace(keep=64).replace(keep=192) == recipe
    assert recipe.replace(keep=64).hash() != recipe.hash() == recipe.replace(budgets={}).hash()
    with pytest.raises(RecipeError, match=r"takes 2 budgets, not 1, or one of its own: 192, 64$"):
        recipe.replace(keep=128)
    with pytest.raises(RecipeError, match="takes 2 budgets, not 1"):
        recipe.replace(keep="1/64")


def test_budgets_are_read_written_and_frozen():
    recipe = Recipe.loads(SCHEDULE, REGISTRY)
    assert Recipe.loads(recipe.dump(), REGISTRY) == recipe
    assert recipe.to_dict()["budgets"] == {192: [300, 200], 64: [66, "1/3"]}
    assert recipe == Recipe(name="schedule", stages=recipe.stages, budgets={192: [300, 200], 64: (66, 1 / 3)})
    assert hash(recipe) == hash(Recipe.loads(SCHEDULE, REGISTRY))
    assert recipe.replace(budgets={}) != recipe
    with pytest.raises(TypeError):
        recipe.budgets[1] = ()
    jsonschema.validate(yaml.safe_load(SCHEDULE), ts.schema(REGISTRY))
    jsonschema.validate(recipe.to_dict(), ts.schema(REGISTRY))
    assert "budgets" not in Recipe.of(NORM(), 64).to_dict()


def test_other_stages_leave_the_budgets_of_the_old_ones_behind():
    recipe = Recipe.loads(SCHEDULE, REGISTRY)
    assert recipe.replace(stages=recipe.stages[:1]).budgets == {}
    assert recipe.replace(stages=recipe.stages).budgets == recipe.budgets
    assert recipe.replace(name="other").budgets == recipe.budgets


@pytest.mark.parametrize(
    "budgets",
    [
        {0: [1, 2]},
        {-5: [1, 2]},
        {"192": [1, 2]},
        {True: [1, 2]},
        {192: 64},
        {192: [1]},
        {192: [1, "auto"]},
        {192: [0, 1]},
    ],
)
def test_budgets_in_python_are_checked_too(budgets):
    stages = Recipe.loads(SCHEDULE, REGISTRY).stages
    with pytest.raises((RecipeError, BudgetError)):
        Recipe(stages=stages, budgets=budgets)
    with pytest.raises((RecipeError, BudgetError)):
        Recipe(stages=stages).replace(budgets=budgets)


def test_recipes_are_frozen_and_closed():
    recipe = Recipe.of(NORM(), 64)
    with pytest.raises(SettingError, match="does not change"):
        recipe.name = "y"
    with pytest.raises(SettingError, match="does not change"):
        recipe.stages[0].keep = 3
    with pytest.raises(RecipeError, match="a recipe has no parameter 'colour'"):
        Recipe(stages=recipe.stages, colour="red")


# It is there to be found.
COLLAPSE = "the formula collapses: '(graph[64] & query[64])' always keeps what 'query' alone keeps; graph has no effect"


@pytest.mark.parametrize("name", sorted(REGISTRY.recipes))
def test_shipped_recipes(name):
    recipe = Recipe.load(name, REGISTRY)
    assert recipe.name == name
    assert Recipe.loads(recipe.dump(), REGISTRY) == recipe
    found = [f.message for f in ts.review(recipe) if f.level != "note"]
    assert found == ([COLLAPSE] if name == "script-head" else [])
    jsonschema.validate(yaml.safe_load(REGISTRY.recipes[name].read_text(encoding="utf-8")), ts.schema(REGISTRY))


def test_the_shipped_recipes_are_these():
    expected = {"script", "gsp", "qcsp", "fastv", "tome", "random", "uniform", "gsp-fastv", "script-merge"}
    assert expected <= set(REGISTRY.recipes)


def test_the_schema_knows_every_strategy_and_refuses_what_the_reader_refuses():
    schema = ts.schema(REGISTRY)
    jsonschema.Draft202012Validator.check_schema(schema)
    json.dumps(schema)
    titles = {o.get("title"): o for o in schema["properties"]["strategies"]["additionalProperties"]["oneOf"]}
    assert set(REGISTRY.strategies) <= set(titles)
    for name, strategy in REGISTRY.strategies.items():
        assert set(titles[name]["properties"]) == {"use", *strategy.model_fields}
    good = {"stages": [{"at": "decoder.0", "select": "gsp", "keep": 64}], "strategies": {"a": {"use": "gsp"}}}
    jsonschema.validate(good, schema)
    for stage in (
        {"at": "encoder.0..3", "keep": 8},
        {"at": "encoder.0..3", "keep": [8, "1/2", 4, 2]},
        {"at": "encoder.0..3", "r": [8, 0, 4, 2]},
        {"at": "encoder.4", "r": 8},
    ):
        jsonschema.validate({"stages": [stage | {"select": "norm"}]}, schema)
    for stage in (
        {"at": "encoder.4", "keep": [8]},
        {"at": "encoder.4", "r": [8]},
        {"at": "encoder.4", "r": 8, "keep": 8},
        {"at": "encoder.0..3", "r": -1},
        {"at": "encoder.0...3", "r": 1},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"stages": [stage | {"select": "norm"}]}, schema)
    for change in (
        {"stage": []},
        {"strategies": {"a": {"use": "gps"}}},
        {"strategies": {"a": {"use": "gsp", "quantil": 0.5}}},
        {"stages": [{"at": "decodr.0", "select": "gsp", "keep": 64}]},
        {"stages": [{"at": "decoder.0", "select": "gsp", "keep": 0}]},
        {"stages": [{"at": "decoder.0", "select": "gsp"}]},
        {"budgets": {"64": 64}},
        {"budgets": {"x": [1, 2]}},
        {"budgets": {"64": [1, 0]}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(good | change, schema)
