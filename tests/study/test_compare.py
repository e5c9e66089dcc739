"""`compare` at the command line."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tokensieve.cli import app
from tokensieve.cli.compare import duration
from tokensieve.study.spec.study import Study
from tokensieve.study.store import Store

from . import fake
from .conftest import PLUGIN


@pytest.fixture
def study(checkpoint, tmp_path):
    """A file of a small study, changed."""

    def write(**changes):
        parts = {
            "plugins": f"[{PLUGIN}]",
            "models": f"[{checkpoint}]",
            "recipes": "[gsp]",
            "keep": "[9]",
            "tasks": "[{use: colours, questions: 2}]",
            "seeds": "[0]",
            "batch": "2",
        } | changes
        file = tmp_path / "study.yaml"
        file.write_text("".join(f"{key}: {value}\n" for key, value in parts.items()), encoding="utf-8")
        return file

    return write


@pytest.fixture
def cli(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return lambda *arguments: CliRunner().invoke(app, ["compare", *map(str, arguments)])


@pytest.fixture
def here(cli):
    """The command in this process, for what has nothing to do with workers."""
    return lambda *arguments: cli(*arguments, "--in-process")


def test_a_study_runs_and_goes_on(cli, study):
    result = cli(study(), "--out", "runs/x")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "runs/x: 9 cells run, 0 were there, 1 n/a"
    assert "downsampled at keep 9: the processor makes no picture of about 9 tokens" in result.stdout
    store = Store("runs/x")
    assert len(store.keys()) == 9
    again = cli(study(), "--out", "runs/x")
    assert again.stdout.splitlines()[-1] == "runs/x: 0 cells run, 9 were there, 1 n/a"
    more = cli(study(), "--out", "runs/x", "--set", "keep=9,4", "--set", "name=wider")
    assert more.stdout.splitlines()[-1] == "runs/x: 7 cells run, 9 were there, 2 n/a"
    assert len(store.keys()) == 16
    # What was resolved is written down, and is a study itself.
    assert Study.loads(store.study()).name == "wider"
    assert {one["role"] for one in store.plan()["skipped"]} == {"downsampled"}


def test_a_dry_run_writes_nothing(cli, study):
    result = cli(study(), "--out", "runs/x", "--dry-run")
    assert result.exit_code == 0, result.output
    assert not Path("runs").exists()
    rows = [line.split("│")[3:7] for line in result.stdout.splitlines() if line.startswith("│") and "colours" in line]
    found = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    assert found["gsp"] == ["9", "1", "0"]
    assert found["unpruned"] == ["", "1", "0"]
    totals = next(line for line in result.stdout.splitlines() if "unknown" in line)
    assert [cell.strip() for cell in totals.split("│")[3:7]] == ["9", "9", "2", "36"]
    assert "counted by the first sample's prompt" in result.stdout


def test_a_dry_run_counts_what_a_run_counts(here, study, registry):
    from tokensieve.study.planning.plan import plan_study
    from tokensieve.study.running.estimate import estimate_costs

    file = study(tasks="[{use: colours, questions: 1}]", recipes="[fastv, {name: m, select: gsp, rest: merge}]")
    # Without a picture some words around it are gone, too, which is not counted before.
    jobs = [job for job in plan_study(Study.load(file, registry), registry).jobs if job.cell.role != "text_only"]
    store = Store("runs/none")
    (before,) = estimate_costs(jobs, store, registry, probe=True)
    assert before.seconds > 0
    assert "timed on one batch without pruning" in before.basis
    assert here(file, "--out", "runs/y").exit_code == 0
    done = Store("runs/y")
    assert before.flops == sum(row.flops for job in jobs for row in done.read(job.cell.key)[1])
    (after,) = estimate_costs(jobs, done, registry)
    assert (after.left, after.flops, after.seconds) == (0, 0, 0)


def test_a_task_with_a_decimal_setting_runs(here, study):
    file = study(tasks="[{use: colours, questions: 2, slow: 0.001}]", recipes="[]")
    assert here(file, "--out", "runs/x", "--dry-run").exit_code == 0
    result = here(file, "--out", "runs/x")
    assert result.exit_code == 0, result.output
    assert Study.loads(Store("runs/x").study()).tasks[0].settings["slow"] == 0.001


def test_a_damaged_cell_is_run_again_and_named(here, study):
    here(study(recipes="[]"), "--out", "runs/x")
    store = Store("runs/x")
    first, second, *_ = store.keys()
    Path(f"runs/x/cells/{first}.parquet").write_bytes(b"")
    Path(f"runs/x/cells/{second}.parquet").unlink()
    count = len(store.plan()["keys"])
    result = here(study(recipes="[]"), "--out", "runs/x")
    assert result.stdout.splitlines()[-1].startswith(f"runs/x: 2 cells run, {count - 2} were there")
    assert f"runs/x/cells/{first}.parquet is empty" in result.stderr
    assert set(store.keys()) == set(store.plan()["keys"])


def test_the_exit_code_tells_of_planned_cells_that_did_not_run(cli, study, monkeypatch):
    """Whatever an engine says: what counts is what is in the folder."""
    from tokensieve.cli import studies

    monkeypatch.setattr(studies, "run_local", lambda *_, **__: studies.Summary())
    result = cli(study(recipes="[]"), "--out", "runs/x")
    assert result.exit_code == 1
    assert "planned cells have no result" in result.stdout


def test_failures_are_said_and_exit_with_one(here, study):
    bad = "{name: bad, strategies: {f: {use: faulty}}, select: f}"
    result = here(study(recipes=f"[{bad}]"), "--out", "runs/x")
    assert result.exit_code == 1
    assert "2 failed (reasons in runs/x/failures" in result.stdout
    assert "failed: " in result.stderr
    assert "a plugin's own mistake" in " ".join(result.stderr.split())


def test_a_cell_that_ends_its_process_is_named_and_the_rest_is_there_the_next_time(cli, study):
    deadly = "{name: deadly, strategies: {f: {use: faulty, how: quiet exit}}, select: f}"
    file = study(recipes=f"[{deadly}, gsp]", controls="{inverted: []}")
    first = cli(file, "--out", "runs/x", "--cell-timeout", "500")
    assert first.exit_code == 1
    assert "8 cells run, 0 were there, 1 n/a, 1 failed" in first.stdout
    said = " ".join(first.stderr.split())
    assert "colours deadly keep 9: its process ended with exit code 0 in the middle of the cell" in said
    assert Study.loads(Store("runs/x").study()).cell_timeout == 500
    again = cli(file, "--out", "runs/x")
    assert again.exit_code == 1
    assert "0 cells run, 8 were there, 1 n/a, 1 failed" in again.stdout
    cured = cli(study(recipes="[gsp]", controls="{inverted: []}"), "--out", "runs/x")
    assert (cured.exit_code, "0 cells run, 8 were there" in cured.stdout) == (0, True)


def test_a_plugin_that_exits_while_the_study_is_checked_is_no_finished_study(cli, study):
    for options in ((), ("--dry-run",)):
        result = cli(study(tasks="[{use: colours, leave: true}]"), "--out", "runs/x", *options)
        assert result.exit_code == 1
        assert "ended the command:\nSystemExit: 0" in result.stderr
    Path("leaving.py").write_text("raise SystemExit(0)\n", encoding="utf-8")
    result = cli(study(plugins=f"[{PLUGIN}, leaving]"), "--out", "runs/x")
    assert result.exit_code == 1
    assert result.stderr.startswith("PluginError: the plugin 'leaving' cannot be imported: SystemExit: 0")
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({"keep": "[lots]"}, (), "BudgetError: keep 'lots'"),
        ({"recipes": "[gps]"}, (), "UnknownRecipeError: "),
        ({}, ("--set", "keep"), "StudyError: 'keep' is no setting"),
        ({"models": "[nowhere]"}, (), "StudyError: model 'nowhere': 'nowhere' is no shipped checkpoint"),
        ({"tasks": "[colors]"}, (), "UnknownTaskError: "),
        ({"cell_timeout": "0"}, (), "StudyError: cell_timeout is 0: it is above 0"),
        ({"cell_timeout": "soon"}, (), "StudyError: cell_timeout is 'soon': write a number"),
        ({}, ("--set", "cell_timeout=true"), "StudyError: cell_timeout is True"),
    ],
)
def test_what_cannot_run_is_refused_in_a_line(cli, study, changes, options, said):
    result = cli(study(**changes), "--out", "runs/x", *options)
    assert result.exit_code == 1
    assert result.stderr.startswith(said)
    assert result.stderr.count("\n") == 1
    assert not Path("runs").exists()


def test_a_wrong_command_line(cli, study):
    assert cli(study()).exit_code == 2
    assert cli(study(), "--out", "x", "--engine", "slurm").exit_code == 2
    assert cli(study(), "--out", "x", "--workers", "0").exit_code == 2
    for seconds in ("0", "-1", "nan", "soon"):
        assert cli(study(), "--out", "x", "--cell-timeout", seconds).exit_code == 2
    for options in (("--workers", "2"), ("--engine", "ray"), ("--cell-timeout", "9")):
        result = cli(study(), "--out", "x", "--in-process", *options)
        assert result.exit_code == 2
        assert "do not go with it" in " ".join(result.stderr.replace("│", " ").split())
    assert not Path("x").exists()


def test_a_place_that_cannot_be_written(cli, study):
    Path("file").write_text("")
    result = cli(study(), "--out", "file")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("StudyError: nothing can be written to file")


def test_an_interrupt_leaves_what_is_finished(here, study, monkeypatch):
    real, calls = fake.Colours.grade, []

    def grade(*args):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(fake.Colours, "grade", grade)
    result = here(study(), "--out", "runs/x")
    assert result.exit_code == 130
    assert "stopped; what is finished is in runs/x. The same command goes on from there" in result.stderr
    assert len(Store("runs/x").keys()) == 2
    monkeypatch.undo()
    monkeypatch.chdir(Path(study()).parent)
    assert "7 cells run, 2 were there" in here(study(), "--out", "runs/x").stdout


@pytest.mark.parametrize(("seconds", "said"), [(None, "unknown"), (3.4, "3 s"), (600, "10 min"), (9000, "2.5 h")])
def test_durations(seconds, said):
    assert duration(seconds) == said
