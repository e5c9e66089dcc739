"""`demo`, from nothing to a report."""

import json
from pathlib import Path

import pytest

from tokensieve import default_registry
from tokensieve.cli.demo import QUICK, shipped_study
from tokensieve.study.planning.plan import plan_study
from tokensieve.study.report import files
from tokensieve.study.report.figures import draw
from tokensieve.study.spec.study import Study
from tokensieve.study.store import Store

KEEPS = ["1/3", "2/9", "1/9", "1/18", "1/36"]


@pytest.fixture(scope="module")
def study():
    return Study.load(shipped_study(), default_registry())


def test_the_study_crosses_what_it_promises(study):
    assert {"script", "gsp", "qcsp", "fastv", "tome", "divprune"} <= {method.name for method in study.recipes}
    budgets = [keep for budget in study.keep for keep in budget.keeps]
    assert list(map(str, budgets)) == KEEPS
    # The wide model has a study of its own.
    assert {model.path for model in study.models} == set(default_registry().checkpoints) - {"world-qwen-wide"}
    cells = [job.cell for job in plan_study(study, default_registry()).jobs]
    for model in study.models:
        ours = [cell for cell in cells if cell.model == model.name]
        assert {"unpruned", "text_only", "random", "uniform", "pool", "oracle", "anti_oracle", "inverted"} <= {
            cell.role for cell in ours
        }
        # Every method at every budget, each with random tokens of the same cost, thrice.
        for method in study.recipes:
            if method.models is None or model.name in method.models:
                assert len([cell for cell in ours if cell.role == "method" and cell.method == method.name]) == 5
        assert len([cell for cell in ours if cell.method == "random"]) == 15


def test_the_demo(cli, monkeypatch):
    small = ("--quick", "--workers", "1", "--set", "limit=18", "--set", "keep=1/9", "--set", "recipes=script,fastv")
    result = cli("demo", *small)
    assert result.exit_code == 0, result.output
    page = Path("demo/report/index.html")
    assert f"page     {page}" in result.stdout
    assert "<h1>demo</h1>" in page.read_text(encoding="utf-8")
    figures = list(Path("demo/report/figures").glob("tokens-*.svg"))
    assert len(figures) == 1
    assert "Does any method beat both uniform and random?" in result.stdout
    store = Store("demo")
    assert {cell.method for cell in store.cells() if cell.role == "method"} == {"script", "fastv"}
    for cell in store.cells():
        _, rows = store.read(cell.key)
        assert len(rows) == 18
        if cell.role == "method":
            assert {len(row.kept[-1]) for row in rows} == {16}
    keys = json.loads(Path("demo/plan.json").read_text(encoding="utf-8"))["keys"]

    monkeypatch.setattr(files, "KINDS", ("png",))
    monkeypatch.setattr(draw, "MAKERS", draw.MAKERS[:1])
    again = cli("demo", *small)
    assert again.exit_code == 0, again.output
    assert f"0 cells run, {len(keys)} were there" in again.stdout


@pytest.mark.parametrize("there", [False, True], ids=["new", "begun"])
def test_a_first_report_comes_before_the_whole_study(cli, monkeypatch, there):
    """Cells and reports have tests of their own; here is their order, and what each is of."""
    said = []

    def run(study, store, registry, engine):
        said.append(("run", store.path, len(plan_study(study, registry).jobs)))
        return True

    class Written:
        page, headline, answers, files = Path("page.html"), "gsp has the most right answers.", (), ()

    monkeypatch.setattr("tokensieve.cli.studies.run_study", run)
    monkeypatch.setattr(
        "tokensieve.cli.studies.report_study", lambda folders, *_: said.append(("report", *folders)) or Written()
    )
    monkeypatch.setattr(Store, "finished", lambda self: {"a cell"} if there else set())
    result = cli("demo")
    assert result.exit_code == 0, result.output
    steps = [step[:2] for step in said]
    whole = [("run", "demo"), ("report", "demo")]
    assert steps == whole if there else [("run", "demo/first"), ("report", "demo/first"), *whole]
    assert ("a first report" in result.stdout) == (not there)
    if not there:
        assert said[0][2] * 3 < said[2][2]


def test_quick_is_the_same_study_made_smaller(study):
    quick = Study.load(shipped_study(), default_registry(), QUICK)
    assert [method.name for method in quick.recipes] == [method.name for method in study.recipes]
    assert len(plan_study(quick, default_registry()).jobs) * quick.limit < 10_000
