"""`recommend`: what fits on a model, against runs, refusals and the tables that reports wrote."""

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from tests.engine.models import ONE, batch, llava, prompts

import tokensieve as ts
from tokensieve.algebra.budget import Keep
from tokensieve.cli.recommend import evidence_of
from tokensieve.errors import RefusedError
from tokensieve.measure.recommendation import KEEPS, Adviser
from tokensieve.recipes.studied import read_operators, read_studies

REGISTRY = ts.default_registry()
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def model():
    return llava(seed=3)


@pytest.fixture(scope="module")
def request_of(model):
    [row] = prompts(model, ONE)
    return batch([row])


@pytest.fixture(scope="module")
def adviser(model, request_of):
    with ts.prune(model, "uniform", keep=1) as run, torch.no_grad():
        model(**request_of)
    visual = run.latest.visual[0]
    return Adviser(REGISTRY.adapter_for(model), REGISTRY, visual, request_of["input_ids"].shape[1] - visual)


def test_shipped_tables_are_those_of_the_page_of_findings():
    folder = REGISTRY.recipe("gsp").parent / "findings"
    shipped = {file.name: file.read_text(encoding="utf-8") for file in folder.glob("accuracy-*.csv")}
    written = {
        file.name: file.read_text(encoding="utf-8")
        for file in (DOCS / "assets" / "findings" / "demo").glob("accuracy-*.csv")
    }
    assert shipped == written, "copy docs/assets/findings/demo/accuracy-*.csv there"


def test_shipped_operators_are_those_of_the_page_of_benchmarks():
    page = (DOCS / "benchmarks.md").read_text(encoding="utf-8").split("## What pruning adds")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(.+)` \| \+([\d,]+) \| \+(\d+) \|", page, re.MULTILINE)
    found = {name: (one.operators, one.waits) for name, one in read_operators(REGISTRY).items()}
    assert found == {name: (int(operators.replace(",", "")), int(waits)) for name, operators, waits in rows}


def test_verdicts_are_those_of_the_page_of_findings():
    """`divprune` has 89.7 at 1/9 on world-llava; `fastv` is worse than the best control at 1/3 and 2/9."""
    studies = {(one.recipe, one.model, one.keep): one for one in read_studies(REGISTRY)}
    divprune = studies["divprune", "world-llava", Fraction(1, 9)]
    assert (round(divprune.right, 1), round(divprune.low, 1), divprune.verdict) == (89.7, 86.2, "better")
    fastv = [studies["fastv", "world-llava", keep.fraction].verdict for keep in KEEPS]
    assert (fastv[:2], "worse" in fastv[3:]) == (["worse", "worse"], False)
    # Above a mean over draws of random tokens: the table has no p-value there.
    few = studies["qcsp", "world-llava", Fraction(1, 36)]
    assert (round(few.over_control, 1), few.verdict) == (56.2, "untested")
    assert studies["uniform", "world-qwen", Fraction(1, 3)].verdict == "control"
    assert not any(one.recipe.startswith(("oracle", "anti_oracle", "unpruned")) for one in studies.values())


@pytest.mark.parametrize("name", ["uniform", "fastv"])
def test_a_speedup_is_the_largest_budget_whose_counted_flops_allow_it(model, request_of, adviser, name):
    """Against the ledgers of runs with that budget and with one token more."""
    [found] = adviser.with_speedup([name], 1.25).candidates
    keep = found.recipe.stages[0].keep.count
    left = []
    for tokens in (keep, keep + 1):
        with ts.prune(model, name, keep=tokens) as run, torch.no_grad():
            model(**request_of)
        before, after = run.flops(0)
        left.append(after / before)
    assert left[0] <= 1 / 1.25 < left[1]
    assert found.flops == pytest.approx(left[0])


def test_what_no_budget_reaches_is_said(adviser):
    answer = adviser.with_speedup(["uniform", "fastv"], 1000)
    assert answer.candidates == []
    assert all("with a single token left" in said for said in answer.aside.values())
    with pytest.raises(RefusedError, match="say --visual N"):
        Adviser(adviser.adapter, REGISTRY).with_speedup(["uniform"], 2)


def test_what_cannot_run_is_what_prune_refuses(model, adviser):
    answer = adviser.with_budget(REGISTRY.recipes, Keep.of(4))
    assert answer.refused
    for name in answer.refused:
        with pytest.raises(ts.TokensieveError), ts.prune(model, name):
            pass
    assert set(answer.aside) | set(answer.refused) | {one.recipe.name for one in answer.candidates} == set(
        REGISTRY.recipes
    )


def test_evidence_is_of_the_nearest_budget_and_first(adviser):
    large = Adviser(adviser.adapter, REGISTRY, 576)
    names = ["trim", "fastv", "divprune", "uniform", "gsp  |  qcsp"]
    answer = large.with_budget(names, Keep.of(70))
    found = {one.recipe.name: one for one in answer.candidates}
    assert next(iter(found)) in ("divprune", "gsp | qcsp")
    assert list(found)[-1] == "trim"
    assert {row.keep for row in found["gsp | qcsp"].studied} == {Fraction(1, 9)}
    assert evidence_of(found["uniform"]).endswith("a control")
    assert "better on 3 of 3 models" in evidence_of(found["divprune"])
    assert evidence_of(found["trim"]) == "none"
    [few] = large.with_budget(["divprune"], Keep.of(16)).candidates
    assert evidence_of(few).endswith("untested on 3 (+12 to +25 points) of 3 models")
    # Nothing was measured near this budget.
    assert not any(one.studied for one in large.with_budget(names, Keep.of(500)).candidates)


def test_a_file_of_a_shipped_name_has_no_evidence_of_the_shipped_recipe(adviser, tmp_path):
    file = tmp_path / "divprune.yaml"
    file.write_text("name: divprune\nstages:\n- {at: decoder.0, select: norm, keep: 4}\n", encoding="utf-8")
    [found] = adviser.with_budget([str(file)], Keep.of("1/9")).candidates
    assert (found.recipe.name, found.studied, found.operators) == ("divprune", (), None)


def test_what_is_the_same_as_a_shipped_recipe_has_its_evidence(adviser, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(ts.Recipe.load("divprune").replace(name="mine").dump(), encoding="utf-8")
    answer = adviser.with_budget(["qcsp & gsp", "gsp & qcsp", "script", str(file)], Keep.of("1/9"))
    found = {one.recipe.name: one for one in answer.candidates}
    assert found["gsp & qcsp"].studied == found["script"].studied != ()
    assert found["gsp & qcsp"].operators == found["script"].operators is not None
    assert evidence_of(found["gsp & qcsp"]).startswith("as script, at 1/9 ")
    assert evidence_of(found["mine"]).startswith("as divprune, at 1/9 ")
    assert evidence_of(found["script"]).startswith("at 1/9 ")


def test_a_latency_is_measured(cli, tmp_path):
    answer = tmp_path / "answer.json"
    result = cli("recommend", "uniform", "--model", "world-llava", "--latency", "100000", "--json", answer)
    assert result.exit_code == 0, result.output
    content = json.loads(answer.read_text(encoding="utf-8"))
    [found] = content["candidates"]
    assert (found["recipe"], found["keep"], content["no_answer"]) == ("uniform", "1/3", {})
    assert 0 < found["selection_ms"] < found["first_token_ms"]
    assert content["unpruned_first_token_ms"] > 0
    assert "medians of single prompts on this machine" in result.stdout


def test_a_latency_that_nothing_reaches(cli, monkeypatch):
    monkeypatch.setattr("tokensieve.measure.recommendation.KEEPS", KEEPS[-1:])
    result = cli("recommend", "uniform", "--model", "world-llava", "--latency", "0.001")
    assert "no recipe fits" in result.stdout
    assert re.search(r"uniform: took [\d.]+ ms to the first token at keep 1/36", result.stdout)


def test_times_of_a_budget(cli):
    result = cli("recommend", "uniform", "--model", "world-llava", "--keep", "16", "--measure")
    assert result.exit_code == 0, result.output
    assert "TTFT" in result.stdout
    assert "unpruned: " in result.stdout


@pytest.mark.parametrize(
    ("said", "options"),
    [
        ("ask for one of", ["--keep", "4", "--speedup", "2"]),
        ("no factor above 1", ["--speedup", "0.5"]),
        ("no factor above 1", ["--speedup", "nan"]),
        ("no number of milliseconds", ["--latency", "0"]),
        ("takes one budget", ["--keep", "4,5"]),
        ("leave --visual out", ["--latency", "5", "--visual", "9"]),
    ],
)
def test_wrong_questions(cli, said, options):
    result = cli("recommend", "--model", "world-llava", *options)
    assert (result.exit_code, said in result.stderr) == (2, True)
