"""`tokensieve report`: from the folder of a study to a page."""

import pytest
from tests.study import synthetic

from tokensieve.study.rows import Failure
from tokensieve.study.store import Store

TASK = synthetic.Shapes(pictures=4)


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
    assert result.stdout.strip().endswith("index.html")
    page = (run / "report" / "index.html").read_text(encoding="utf-8")
    assert "<h1>little</h1>" in page
    assert "OutOfMemoryError: too much" in page
    # Its task is no plugin's, so there are no pictures, and that is said.
    assert "no task is named 'shapes'" in result.stderr


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
