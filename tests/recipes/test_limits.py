"""What is too large, or no file, is refused by an error of our own, before it costs anything."""

import os
import time
import tracemalloc

import pytest

import tokensieve as ts
from tokensieve import Recipe
from tokensieve.errors import FormulaError, RecipeError, ScoreError, StudyError, TokensieveError
from tokensieve.evidence import Evidence
from tokensieve.study.spec.study import Study
from tokensieve.testing.samples import sample

REGISTRY = ts.default_registry()
HUGE = (
    "100000000000000000000",
    "9223372036854775808",
    "-9223372036854775809",
    "1e300",
    "-1e300",
    "1e-300",
    "4294967296",
)


def recipe(select="norm", at="decoder.0", keep=4, head=""):
    return f"name: r\n{head}stages:\n  - at: {at}\n    select: '{select}'\n    keep: {keep}\n"


def test_ranges_out_of_order_are_refused_before_they_are_expanded():
    entry = "  - {at: encoder.0..9999, select: norm, keep: 9}\n"
    text = "name: r\nstages:\n" + entry * 1_000
    started = time.process_time()
    tracemalloc.start()
    with pytest.raises(RecipeError, match=r"stages out of order: encoder.0 comes before encoder.9999 .*  \(<text>:4\)"):
        Recipe.loads(text, REGISTRY)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 80 * 2**20
    assert time.process_time() - started < 30


def test_ranges_that_overlap_or_meet():
    def stages(*sites):
        return "name: r\nstages:\n" + "".join(f"  - {{at: {site}, select: norm, r: 1}}\n" for site in sites)

    for sites in (("encoder.0..3", "decoder.0..3"), ("decoder.0", "decoder.1..3", "decoder.4")):
        assert Recipe.loads(stages(*sites), REGISTRY).stages[-1].at.block in (3, 4)
    for sites, match in (
        (("decoder.0..3", "decoder.3..5"), "the site decoder.3 stands twice"),
        (("decoder.0..3", "decoder.2..5"), "decoder.2 comes before decoder.3"),
        (("decoder.0..3", "encoder.2..5"), "encoder.2 comes before decoder.3"),
        (("decoder.5..3", "decoder.9"), "runs backwards"),
    ):
        with pytest.raises(RecipeError, match=match):
            Recipe.loads(stages(*sites), REGISTRY)


def test_a_recipe_is_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    pipe = "is a pipe or a device: write its content to a file, and name that"
    empty = tmp_path / "empty"
    empty.mkdir()
    for path, said in (
        (tmp_path / "pipe.yaml", pipe),
        ("/dev/zero", pipe),
        ("/dev/null", pipe),
        (tmp_path, f"is a folder: name a file in it, such as {tmp_path}/pipe.yaml"),
        (empty, "is a folder: name a file in it; there is no .yaml in it"),
        (tmp_path / ("a" * 5000), "there is no (file|study) "),
    ):
        with pytest.raises(RecipeError, match=said):
            Recipe.load(path)
        with pytest.raises(StudyError, match=said):
            Study.load(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"the file is empty; write at least `{least}:.*:1\)$"),
        (b"# nothing\n", r"the file is empty; write at least `{least}:.*:1\)$"),
        (b"name: \xfc\n", r"is no UTF-8 text \(it holds the byte 0xfc\): save it as UTF-8 text"),
        ("name: x\n".encode("utf-16"), r"is no UTF-8 text \(it holds the byte 0xff\): save it as UTF-8 text"),
        ("name: x\n".encode("utf-16-le"), r"U\+0000 cannot stand in YAML; remove it, or save the file as UTF-8 text"),
    ],
)
def test_a_file_that_is_no_text_of_yaml(tmp_path, content, said):
    file = tmp_path / "x.yaml"
    file.write_bytes(content)
    with pytest.raises(RecipeError, match=said.replace("{least}", "stages")):
        Recipe.load(file)
    with pytest.raises(StudyError, match=said.replace("{least}", "models")):
        Study.load(file)


@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize(
    "formula",
    [
        "norm[{}]",
        "best(norm, m={})",
        "per_group(norm, by=window, size={})",
        "per_group(norm, by={})",
        "at_least({}, norm, gsp)",
        "quota(norm, gsp, share={})",
        "quota(norm, gsp, share=1/{})",
        "weighted(norm, gsp, weights=[{}, 1])",
        "weighted(norm, gsp, weights=[1/{}, 1])",
        "borda(norm, gsp, x={})",
    ],
)
def test_huge_numbers_in_formulas(number, formula):
    tokens = sample([9, 20])
    try:
        read = Recipe.loads(recipe(formula.format(number)), REGISTRY)
        ts.review(read)
        ts.select(read.stages[0].select, tokens, read.stages[0].keep)
    except TokensieveError:
        return
    assert number == "4294967296" or formula == "quota(norm, gsp, share=1/{})"


@pytest.mark.parametrize("number", HUGE)
def test_huge_numbers_as_budgets(number):
    for text in (recipe(keep=number), recipe().replace("keep: 4", f"r: {number}"), recipe(keep=f"{number}/{number}1")):
        try:
            read = Recipe.loads(text, REGISTRY)
            ts.select(read.stages[0].select, sample([9, 20]), read.stages[0].keep)
        except TokensieveError:
            continue
        assert number == "4294967296" or "1e" not in number


SETTINGS = [
    (name, field)
    for name, strategy in sorted(REGISTRY.strategies.items())
    if name != "replay"
    for field in strategy.model_fields
]


@pytest.mark.parametrize(("name", "field"), SETTINGS)
def test_huge_numbers_as_settings(name, field):
    strategy = REGISTRY.strategies[name]
    others = "".join(f", {key}: {value}" for key, value in strategy.examples[0].items() if key != field)
    for number in HUGE:
        head = f"strategies:\n  a: {{use: {name}, {field}: {number}{others}}}\n"
        try:
            read = Recipe.loads(recipe("a", head=head), REGISTRY)
            ts.select(read.stages[0].select, sample([9, 20]), read.stages[0].keep)
        except TokensieveError:
            continue


def test_a_setting_too_large_to_compute_with_names_the_strategy():
    class Far(ts.Scorer):
        name = "far"
        needs = frozenset({Evidence.FEATURES})
        at: int = 0

        def score(self, tokens):
            return tokens.features[..., 0].long() + self.at

    with pytest.raises(ScoreError, match=r"Far\(at=100000000000000000000\) has a setting that is too large"):
        ts.select(Far(at=10**20), sample([5]), ts.Keep.of(2))


@pytest.mark.parametrize(
    ("formula", "match"),
    [
        ("gsp # & cls", "'# & cls' is a comment"),
        ("gsp #", "'#' is a comment"),
        ("(gsp # x\n & norm)", "'# x' is a comment"),
        ("\uff47\uff53\uff50", "'\uff47\uff53\uff50' is written in other letters than 'gsp'"),
        ("gsp & n\u00bar\u1d50", "is written in other letters than 'norm'"),
        ("\u210borm & gsp", "is written in other letters than 'Horm'"),
        ("quota(gsp, norm, \uff53hare=1/2)", "is written in other letters than 'share'"),
        ("at_least(0b10, gsp, norm)", "'0b10' is not a number"),
        ("at_least(1_0, gsp, norm)", "'1_0' is not a number"),
        ("quota(gsp, norm, share=0x1/2)", "'0x1' is not a number"),
        ("weighted(gsp, norm, weights=[1, -0o7])", "'0o7' is not a number"),
        ("gsp[\uff11\uff10]", "is not"),
    ],
)
def test_what_python_reads_as_something_else(formula, match):
    from tokensieve.composers.formula import parse

    with pytest.raises(FormulaError, match=match):
        parse(formula, lambda name: REGISTRY.strategies[name](), REGISTRY.composers)


def test_signs_in_quotes_are_no_comment():
    from tokensieve.composers.formula import parse

    with pytest.raises(FormulaError, match="not '#'"):
        parse("per_group(gsp, by='#')", lambda name: REGISTRY.strategies[name](), REGISTRY.composers)
