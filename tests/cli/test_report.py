"""`tokensieve report`: from the folder of a study to a page."""

from pathlib import Path

import pytest
from tests.study import synthetic

from tokensieve.study.report import files
from tokensieve.study.report.figures import draw
from tokensieve.study.report.figures.panels import by_kind
from tokensieve.study.rows import Failure
from tokensieve.study.store import Store

TASK = synthetic.Shapes(pictures=4)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """One figure in one format: what is drawn is seen by the tests of reports."""
    monkeypatch.setattr(files, "KINDS", ("svg",))
    monkeypatch.setattr(draw, "MAKERS", (by_kind,))


@pytest.fixture
def run(tmp_path):
    """The folder of a study of a few cells."""
    store = Store(tmp_path / "runs" / "x")
    made = synthetic.study(TASK, models=("small-a",), keeps=("1/9",), methods=("gsp",))
    broken = synthetic.cell(TASK, "small-a", "qcsp", "method", "1/9")
    store.begin("name: little\n", {"keys": [*made.content, broken.key], "skipped": []})
    for cell, rows in made.content.values():
        store.write(cell, rows)
    store.write_failure(Failure(broken, "OutOfMemoryError: too much", "Traceback"))
    return tmp_path / "runs" / "x"


def test_a_folder_becomes_a_page(cli, run):
    result = cli("report", run, "--samples", 3)
    assert result.exit_code == 0, result.output
    opening, place = result.stdout.strip().splitlines()
    assert place.endswith("index.html")
    # With so few questions it depends on the draw what is in front; it is a sentence about some arm.
    assert "the most right answers" in opening
    assert "Incomplete study: 1 of " in opening
    page = (run / "report" / "index.html").read_text(encoding="utf-8")
    assert "<h1>little</h1>" in page
    assert "OutOfMemoryError: too much" in page
    # Its task is no plugin's, so there are no pictures, and that is said.
    assert "no task is named 'shapes'" in result.stderr


def test_several_runs_make_one_page(cli, run, tmp_path):
    other = Store(tmp_path / "runs" / "y")
    made = synthetic.study(TASK, models=("small-a",), keeps=("1/9",), methods=("qcsp",))
    other.begin("name: more\n", {"keys": list(made.content), "skipped": []})
    for cell, rows in made.content.values():
        other.write(cell, rows)
    refused = cli("report", run, other.path)
    assert refused.exit_code == 1
    assert "several runs make one report; say where it goes with --out" in refused.stderr
    out = tmp_path / "both"
    result = cli("report", run, other.path, f"{run}/", "--out", out, "--samples", 2)
    assert result.exit_code == 0, result.output
    # The cell that one run lacks is in the other, so nothing is missing.
    assert "Incomplete" not in result.output
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "<h1>little + more</h1>" in page
    assert "The study, as it was resolved (2 of 2)" in page
    rows = (out / "tables" / "accuracy-small-a-on-shapes.csv").read_text(encoding="utf-8")
    assert ",gsp,method," in rows
    assert ",qcsp,method," in rows
    assert rows.count(",uniform,uniform,") == 1


def test_tables_for_a_paper(cli, run, tmp_path):
    numbers = tmp_path / "numbers.yaml"
    numbers.write_text("- {source: Gale, model: small-a, method: gale, keep: 1/9, values: {shapes: 12.5}}\n")
    options = ("--published", numbers, "--no-intervals", "--columns", "All, Rel. %")
    result = cli("report", run, "--samples", 1, *options)
    assert result.exit_code == 0, result.output
    latex = (run / "report" / "tables" / "accuracy-small-a-on-shapes.tex").read_text(encoding="utf-8")
    assert "& All & Rel. \\% \\\\" in latex
    assert "gale, published & 12.5 & -- \\\\" in latex
    for option, value, said in (
        ("--columns", "Al", "no main table has a column 'Al'"),
        ("--published", "no.yaml", "no.yaml"),
    ):
        refused = cli("report", run, "--samples", 1, option, value)
        assert refused.exit_code == 1
        assert said in refused.stderr


MARK = """
from pathlib import Path
Path("ran").touch()
"""


def test_reading_a_report_runs_no_code_unless_asked(cli, run):
    store = Store(run)
    (run.parent.parent / "evil_plugin.py").write_text(MARK)
    for plugins in ("[evil_plugin]", "evil_plugin"):
        store.begin(f"name: little\nplugins: {plugins}\n", store.plan())
        result = cli("report", run, "--samples", 1)
        assert result.exit_code == 0, result.output
        assert not Path("ran").exists()
        assert "plugins that are not installed (evil_plugin)" in result.stderr
        assert "--plugins" in result.stderr
    assert cli("report", run, "--samples", 1, "--plugins").exit_code == 0
    assert Path("ran").exists()


@pytest.mark.parametrize("name", ["plan.json", "study.yaml", "failures"])
def test_a_file_that_cannot_be_read_is_named(cli, run, name):
    file = next((run / name).iterdir()) if name == "failures" else run / name
    file.write_bytes(b"\xff{")
    result = cli("report", run)
    assert result.exit_code == 1
    assert str(file) in result.stderr
    assert "Traceback" not in result.output


def test_cells_that_are_gone_are_told(cli, run):
    [first, second, *_] = Store(run).keys()
    (run / "cells" / f"{first}.parquet").unlink()
    damaged = run / "cells" / f"{second}.parquet"
    damaged.write_bytes(damaged.read_bytes()[:500])
    result = cli("report", run)
    assert result.exit_code == 0, result.output
    assert "Incomplete study: 3 of" in result.stderr
    page = (run / "report" / "index.html").read_text(encoding="utf-8")
    assert "every cell of the study finished" not in page
    assert f"cell {first}" in page
    assert "is damaged" in page
    assert str(run) not in page


def test_a_study_without_finished_cells_is_refused(cli, tmp_path):
    Store(tmp_path / "empty").begin("name: nothing\n", {"keys": [], "skipped": []})
    result = cli("report", "empty", "--out", "elsewhere")
    assert result.exit_code == 1
    assert "'nothing' has no finished cell to report on" in result.stderr


def test_a_folder_of_no_study_is_refused(cli, tmp_path):
    result = cli("report", tmp_path)
    assert result.exit_code == 1
    assert "is no folder of a study" in result.stderr


def test_a_study_elsewhere_needs_a_place_for_its_report(cli):
    Store("memory://runs/far").begin("name: far\n", {"keys": [], "skipped": []})
    result = cli("report", "memory://runs/far")
    assert result.exit_code == 1
    assert "say where the report goes with --out" in result.stderr
