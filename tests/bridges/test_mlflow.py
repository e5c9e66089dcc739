"""A study in MLflow, read back by MLflow's own client."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tokensieve.cli import app
from tokensieve.study.running.mlflow_tracker import KEY, means_of
from tokensieve.study.store import Store

pytestmark = [pytest.mark.bridge, pytest.mark.filterwarnings("ignore")]
STUDY = """\
name: logged
models: [world-llava]
recipes: [divprune]
keep: [16]
tasks: [{use: world, pictures: 4}]
seeds: [0]
limit: 6
"""


@pytest.fixture
def compare(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Path("study.yaml").write_text(STUDY, encoding="utf-8")
    return lambda *more: CliRunner().invoke(app, ["compare", "study.yaml", "--out", "run", "--in-process", *more])


def runs(uri):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name("logged")
    return client.search_runs([found.experiment_id])


def test_every_cell_is_a_run_once(compare, monkeypatch, tmp_path):
    assert compare().exit_code == 0
    # What was measured before is logged as well, and nothing is measured or logged again.
    for _ in range(2):
        result = compare("--log", "mlflow")
        assert result.exit_code == 0, result.output
        assert "0 cells run" in result.output
        assert "hook" not in result.output
    store = Store("run")
    cells = {cell.key: cell for cell in store.cells()}
    found = runs(f"sqlite:///{tmp_path}/run/mlflow.db")
    assert sorted(run.data.tags[KEY] for run in found) == sorted(cells)
    for run in found:
        cell, rows = store.read(run.data.tags[KEY])
        assert run.info.status == "FINISHED"
        assert run.data.params["method"] == cell.method
        assert run.data.params.get("keep") == cell.keep
        assert run.data.metrics["correct"] == pytest.approx(sum(row.correct for row in rows) / len(rows))
        assert run.data.metrics == pytest.approx(means_of(rows))
        assert ("tokensieve.recipe" in run.data.tags) == (cell.recipe is not None)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run", "study.yaml"]
    # Another place, while cells run.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other := f"sqlite:///{tmp_path}/other.db")
    assert compare("--log", "mlflow", "--set", "keep=9").exit_code == 0
    assert sorted(run.data.tags[KEY] for run in runs(other)) == Store("run").keys()


def test_a_place_that_cannot_be_written_is_said_before_a_cell_runs(compare, monkeypatch, tmp_path):
    # A file is in the way.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri := f"sqlite:///{tmp_path}/study.yaml/all.db")
    result = compare("--log", "mlflow")
    assert result.exit_code != 0
    assert f"MLflow cannot write the experiment 'logged' at {uri}: " in result.output
    assert not Store("run").finished()
