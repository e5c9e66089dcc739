"""Recipes as files: what is read, what is refused, and on which line."""

from fractions import Fraction

import pytest

import tokensieve as ts
from tokensieve import Keep, Recipe
from tokensieve.algebra.budget import count
from tokensieve.errors import (
    BudgetError,
    FormulaError,
    RecipeError,
    TokensieveError,
    UnknownNameError,
    UnknownRecipeError,
    UnknownStrategyError,
)

REGISTRY = ts.default_registry()
GOOD = """\
name: x
positions: original
strategies:
  a: {use: gsp, quantile: 0.75}
  b: norm
stages:
  - at: decoder.0
    select: a & b
    keep: 64
"""


def load(text):
    return Recipe.loads(text, REGISTRY, source="dir/r.yaml")


def with_keep(keep):
    return GOOD.replace("keep: 64", f"keep: {keep}")


def test_a_good_recipe_is_what_it_says():
    recipe = load(GOOD)
    stage = recipe.stages[0]
    assert (recipe.name, recipe.positions, str(stage.at), stage.keep.count) == ("x", "original", "decoder.0", 64)
    a, b = REGISTRY.strategy("gsp")(quantile=0.75), REGISTRY.strategy("norm")()
    assert stage.select == a & b
    assert recipe.strategies == {"a": a, "b": b}
    assert (stage.per, stage.rest, stage.by, stage.newlines) == ("image", "drop", None, "judge")


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nstages: *b\n"
RANGE = "stages:\n  - at: encoder.1..3\n    select: norm\n    keep: 8\n"

REFUSED = [
    # what, text, kind of error, line, part of the message
    ("an alias bomb", BOMB, RecipeError, 1, "anchors and aliases"),
    ("an alias", GOOD.replace("name: x", "name: *x"), RecipeError, 1, "anchors and aliases"),
    ("a tag", GOOD.replace("name: x", "name: !!python/name:os.system x"), RecipeError, 1, "tags such as"),
    ("a local tag", GOOD.replace("keep: 64", "keep: !n 64"), RecipeError, 9, "tags such as"),
    ("a float by tag", GOOD.replace("keep: 64", "keep: !!float 1"), RecipeError, 9, "tags such as"),
    ("a duplicate key", GOOD + "name: y\n", RecipeError, 10, "'name' stands here a second time (first at line 1)"),
    ("a merge key", GOOD.replace("{use: gsp", "{<<: {use: gsp}"), RecipeError, 4, ""),
    ("a misspelt recipe key", GOOD.replace("stages:", "stage:"), RecipeError, 6, "Did you mean 'stages'?"),
    ("a misspelt stage key", GOOD.replace("keep:", "kep:"), RecipeError, 9, "Did you mean 'keep'?"),
    ("a ratio", GOOD.replace("keep: 64", "ratio: 0.9"), RecipeError, 9, "a stage has no key 'ratio'"),
    ("no stages", "name: x\n", RecipeError, 1, "needs 'stages'"),
    ("empty stages", "stages: []\n", RecipeError, 1, "at least one stage"),
    ("stages as a mapping", "stages: {at: decoder.0}\n", RecipeError, 1, "stages is a list"),
    ("no keep", GOOD.replace("    keep: 64\n", ""), RecipeError, 7, "a stage needs 'keep'"),
    ("a number for a name", GOOD.replace("name: x", "name: 3"), RecipeError, 1, "name is 3"),
    (
        "a list for a formula",
        GOOD.replace("select: a & b", "select: [a, b]"),
        RecipeError,
        8,
        "select is one formula as text",
    ),
    ("a truth value for a number", GOOD.replace("0.75", "true"), RecipeError, 4, "quantile"),
    ("a word for a number", GOOD.replace("0.75", "high"), RecipeError, 4, "quantile"),
    ("a number out of range", GOOD.replace("0.75", "2.0"), RecipeError, 4, "quantile"),
    ("an unknown parameter", GOOD.replace("quantile", "quantil"), RecipeError, 4, "Did you mean 'quantile'?"),
    ("an unknown strategy", GOOD.replace("use: gsp", "use: gps"), UnknownStrategyError, 4, "Did you mean 'gsp'?"),
    ("no use", GOOD.replace("use: gsp, ", ""), RecipeError, 4, "which strategy it uses"),
    ("an operand like a composer", GOOD.replace("b: norm", "union: norm"), RecipeError, 5, "is a composer"),
    ("an operand that is no word", GOOD.replace("b: norm", "b-1: norm"), RecipeError, 5, "no name a formula can use"),
    ("an unused operand", GOOD.replace("a & b", "a"), RecipeError, 5, "no formula uses it"),
    ("an unknown operand", GOOD.replace("a & b", "a & b & c"), FormulaError, 8, "uses 'c'"),
    ("an unknown composer", GOOD.replace("a & b", "unoin(a, b)"), FormulaError, 8, "Did you mean 'union'?"),
    ("a broken formula", GOOD.replace("a & b", "a & & b"), FormulaError, 8, "is not a formula"),
    ("a sum", GOOD.replace("a & b", "a + b"), FormulaError, 8, "There is no `+`"),
    ("a bad size", GOOD.replace("a & b", "a[0] & b"), FormulaError, 8, "is not a size"),
    ("a site that is none", GOOD.replace("decoder.0", "encodr.0"), RecipeError, 7, "is no site"),
    ("a negative site", GOOD.replace("decoder.0", "decoder.-1"), RecipeError, 7, "is no site"),
    ("a site between layers", GOOD.replace("decoder.0", "decoder.1.5"), RecipeError, 7, "is no site"),
    ("a site with a zero", GOOD.replace("decoder.0", "decoder.02"), RecipeError, 7, "is no site"),
    ("a range that runs backwards", GOOD.replace("decoder.0", "decoder.4..2"), RecipeError, 7, "runs backwards"),
    ("a range over both parts", GOOD.replace("decoder.0", "encoder.4..decoder.2"), RecipeError, 7, "is no site"),
    ("too short a list", RANGE.replace("keep: 8", "keep: [8, 4]"), RecipeError, 4, "lists 2 numbers for 3 sites"),
    ("a bad entry of a list", RANGE.replace("keep: 8", "keep: [8, 4, 0]"), BudgetError, 4, "keep 0 is not between"),
    ("keep and r", RANGE + "    r: 2\n", RecipeError, 5, "not both"),
    ("a fraction for r", RANGE.replace("keep: 8", "r: 0.5"), RecipeError, 4, "r is how many tokens go"),
    ("a negative r", RANGE.replace("keep: 8", "r: -1"), BudgetError, 4, "r -1 is not between 0"),
    ("a list for one r", GOOD.replace("keep: 64", "r: [1]"), RecipeError, 9, "r is how many tokens go"),
    ("a site of a range twice", RANGE + "  - {at: encoder.3, select: norm, keep: 2}\n", RecipeError, 5, "stands twice"),
    ("an unknown group", GOOD.replace("keep: 64", "keep: 64\n    per: imag"), RecipeError, 10, "per is 'imag'"),
    ("an unknown rest", GOOD.replace("keep: 64", "keep: 64\n    rest: fold"), RecipeError, 10, "rest is 'fold'"),
    ("unknown positions", GOOD.replace("original", "kept"), RecipeError, 2, "positions is 'kept'"),
    ("an empty file", "", RecipeError, 1, "empty"),
    ("only a comment", "# nothing\n", RecipeError, 1, "empty"),
    ("a list", "- a\n", RecipeError, 1, "a recipe is a mapping"),
    ("two documents", GOOD + "---\nname: y\n", RecipeError, 10, "one document"),
    ("an open bracket", "stages: [\n", RecipeError, 2, "not YAML"),
    ("a tab", "stages:\n\t- at: decoder.0\n", RecipeError, 2, "not YAML"),
    ("a number as a key", "1: x\n", RecipeError, 1, "a key is a word"),
    ("deep nesting", "stages: " + "[" * 40 + "]" * 40 + "\n", RecipeError, 1, "nested at most"),
    ("a large file", "# " + "x" * 70_000 + "\n" + GOOD, RecipeError, 1, "at most"),
    ("an endless number", with_keep("1" * 30), RecipeError, 9, "too large a number"),
    ("keep auto for a ranking", with_keep("auto"), RecipeError, 9, "keep: auto"),
]
REFUSED += [
    (f"keep {keep}", with_keep(keep), error, 9, part)
    for keep, error, part in (
        ("0", BudgetError, "keep 0 is not between 1"),
        ("-3", BudgetError, "keep -3 is not between 1"),
        ("1.5", BudgetError, "keep 3/2 is not in (0, 1]"),
        ("0.0", BudgetError, "is not in (0, 1]"),
        (".nan", BudgetError, "cannot be read"),
        (".inf", BudgetError, "cannot be read"),
        ("1e-1", BudgetError, "cannot be read"),
        ("'1e-1'", BudgetError, "cannot be read"),
        ("true", BudgetError, "is a truth value"),
        ("on", BudgetError, "'on' cannot be read"),
        ("010", BudgetError, "'010' cannot be read"),
        ("1:30", BudgetError, "'1:30' cannot be read"),
        ("3/0", BudgetError, "cannot be read"),
        ("101%", BudgetError, "is not in (0, 1]"),
        ("[64]", BudgetError, "is a list"),
        ("0.1111111111111111111111", BudgetError, "longer than 20 characters"),
    )
]


@pytest.mark.parametrize(("text", "kind", "line", "part"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_what_is_refused_says_what_and_where(text, kind, line, part):
    with pytest.raises(TokensieveError) as raised:
        load(text)
    message = str(raised.value)
    assert type(raised.value) is kind
    assert part in message
    assert message.endswith(f"(dir/r.yaml:{line})")
    assert len(message) < 2_000
    assert "\n" not in message


def test_a_range_is_a_stage_at_each_site():
    one = load(RANGE)
    assert [(str(stage.at), str(stage.keep)) for stage in one.stages] == [(f"encoder.{k}", "8") for k in (1, 2, 3)]
    lists = load(RANGE.replace("keep: 8", "keep: [1/2, 9, 50%]"))
    assert [str(stage.keep) for stage in lists.stages] == ["1/2", "9", "1/2"]
    fewer = load(RANGE.replace("keep: 8", "r: [4, 0, 2]"))
    assert [stage.keep for stage in fewer.stages] == [Keep(less=r) for r in (4, 0, 2)]
    assert "r: 4" in fewer.dump()
    # Stages alike are written as one.
    assert "at: encoder.1..3\n" in one.dump()
    assert load(RANGE + "  - {at: encoder.4, select: norm, keep: 8}\n").dump().count("at:") == 1
    assert load(RANGE + "  - {at: encoder.4, select: norm, keep: 8, rest: merge}\n").dump().count("at:") == 2
    assert load(RANGE + "  - {at: encoder.5, select: norm, keep: 8}\n").dump().count("at:") == 2
    for recipe in (one, lists, fewer):
        assert load(recipe.dump()) == recipe
    norm = one.stages[0].select
    assert Recipe.of(norm, at="encoder.1..3", r=[4, 0, 2], name="x").stages == fewer.stages
    assert fewer.hash() != one.hash()
    with pytest.raises(RecipeError, match="lists 1 numbers for 3 sites"):
        Recipe.of(norm, [3], at="encoder.1..3")


TWO = "stages:\n- {at: decoder.0, select: norm, keep: 300}\n- {at: decoder.2, select: norm, keep: 200}\nbudgets:\n"


@pytest.mark.parametrize(
    ("budgets", "kind", "line", "part"),
    [
        ("  192: [300]\n", RecipeError, 5, "budget 192 has 1 entries for 2 stages (decoder.0, decoder.2)"),
        ("  64: [9, 8]\n  192: [9, auto]\n", RecipeError, 6, "budget 192 has auto for an entry"),
        ("  64: [9, 8]\n  192: 64\n", BudgetError, 6, "budget 192 is a list with a budget for each stage"),
        ("  64: [9, 1.5]\n", BudgetError, 5, "keep 3/2 is not in (0, 1]"),
        ("  0: [9, 8]\n", BudgetError, 5, "budgets are named by counts"),
        ("  x: [9, 8]\n", RecipeError, 5, "a key is a number under budgets; 'x' is not"),
        ("  '64': [9, 8]\n", RecipeError, 5, "a key is a number under budgets"),
        ("  64: [9, 8]\n  64: [9, 8]\n", RecipeError, 6, "'64' stands here a second time (first at line 5)"),
        ("  1" + "0" * 20 + ": [9, 8]\n", RecipeError, 5, "is too large a number"),
        ("- [9, 8]\n", RecipeError, 4, "budgets is a mapping from counts to lists"),
    ],
)
def test_budgets_that_are_refused(budgets, kind, line, part):
    with pytest.raises(TokensieveError) as raised:
        load(TWO + budgets)
    assert type(raised.value) is kind
    assert part in str(raised.value)
    assert str(raised.value).endswith(f"(dir/r.yaml:{line})")


def test_one_stage_has_no_budgets_beside_keep():
    with pytest.raises(RecipeError, match=r"budgets is for recipes of several stages.*:10\)"):
        load(GOOD + "budgets: {64: [30]}\n")


ORDER = GOOD + "  - at: decoder.0\n    select: b\n    keep: 8\n"


def test_stages_in_order_at_different_sites():
    load(ORDER.replace("- at: decoder.0\n    select: b", "- at: decoder.3\n    select: b"))
    with pytest.raises(RecipeError, match=r"decoder\.0 stands twice"):
        load(ORDER)
    with pytest.raises(RecipeError, match=r"stages out of order: decoder\.0 comes before decoder\.4"):
        load(ORDER.replace("- at: decoder.0\n    select: a", "- at: decoder.4\n    select: a"))
    with pytest.raises(RecipeError, match=r"encoder\.2 comes before decoder\.0"):
        load(ORDER.replace("- at: decoder.0\n    select: b", "- at: encoder.2\n    select: b"))


@pytest.mark.parametrize(
    ("keep", "of_576"),
    [
        ("1", 1),
        ("1.0", 576),
        ("100%", 576),
        ("1/9", 64),
        ("25%", 144),
        ("12.5%", 72),
        ("0.3333333333333333", 191),
        ("'0.25'", 144),
        (".5", 288),
        ("1000", 576),
        ("1/1000", 1),
    ],
)
def test_what_keep_means(keep, of_576):
    assert count(load(with_keep(keep)).stages[0].keep, 576) == of_576


def test_a_python_float_is_the_simplest_fraction():
    assert Recipe.of(REGISTRY.strategy("norm")(), 1 / 3).stages[0].keep.fraction == Fraction(1, 3)


def test_words_of_old_yaml_are_words():
    assert load(GOOD.replace("name: x", "name: on")).name == "on"
    assert load(GOOD.replace("name: x", "name: 1:30")).name == "1:30"


def test_line_endings_and_letters(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_bytes(GOOD.replace("name: x", "name: café").replace("\n", "\r\n").encode())
    assert Recipe.load(file, REGISTRY).name == "café"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="is no UTF-8 text"):
        Recipe.load(file, REGISTRY)


def test_names_and_paths():
    assert Recipe.load("script", REGISTRY).name == "script"
    with pytest.raises(UnknownRecipeError, match=r"no shipped recipe is named 'scrpt'.*Did you mean 'script'\?"):
        Recipe.load("scrpt", REGISTRY)
    with pytest.raises(RecipeError, match=r"there is no file nowhere/r\.yaml"):
        Recipe.load("nowhere/r.yaml", REGISTRY)


def test_the_unknown_is_listed():
    with pytest.raises(UnknownNameError, match=f"Registered: {', '.join(sorted(REGISTRY.strategies))}"):
        load(GOOD.replace("use: gsp, quantile: 0.75", "use: zzz"))
