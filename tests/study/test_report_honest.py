"""A report says what it does not know: missing cells, statistics that cannot be computed, names that look alike."""

import json
import re
from dataclasses import replace

import pytest
from effort import NIGHTLY

from tokensieve.plugins.registry import default_registry
from tokensieve.study.analysis import findings as findings_module
from tokensieve.study.analysis import significance
from tokensieve.study.analysis.collect import collect
from tokensieve.study.analysis.completeness import check_completeness
from tokensieve.study.analysis.measured import encodable
from tokensieve.study.report import files, write_report
from tokensieve.study.report.figures import curves, panels
from tokensieve.study.report.figures import draw as drawing
from tokensieve.study.report.figures.kept import maps, overlap
from tokensieve.study.report.names import unique_names
from tokensieve.study.report.tables import accuracy
from tokensieve.study.report.tables.values import Table, slug
from tokensieve.study.report.text import without_folders
from tokensieve.study.rows import Failure
from tokensieve.study.statistics import Design

from . import synthetic
from .synthetic import Made, Shapes

TASK = Shapes(pictures=4)
METHODS = ("script", "gsp")
EVERY = drawing.MAKERS


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Reports of few figures and few resamples: their texts are looked at, not their numbers."""
    monkeypatch.setattr(files, "KINDS", ("svg",))
    monkeypatch.setattr(drawing, "MAKERS", (panels.by_kind,))
    monkeypatch.setattr(
        significance, "_design", lambda clusters, _=0: Design(clusters=clusters.tolist(), level=0.95, resamples=50)
    )


class Planned(Made):
    """Results with a plan of their own."""

    planned = None
    broken = None

    def plan(self):
        return {"keys": list(self.content)} if self.planned is None else self.planned

    def damaged(self):
        return self.broken or {}


def small(models=("small-a",)):
    made = synthetic.study(TASK, models=models, keeps=("1/9",), methods=METHODS)
    return Planned(made.content)


def report(made, folder, **settings):
    written = write_report(made, folder, default_registry(), tasks={TASK.hash(): TASK}, samples=2, **settings)
    return written, written.page.read_text(encoding="utf-8")


@pytest.fixture
def every_figure(_quick, monkeypatch):
    monkeypatch.setattr(drawing, "MAKERS", EVERY)


# What is missing


def test_a_whole_study_says_so_and_nothing_else(tmp_path):
    written, page = report(small(), tmp_path)
    assert written.completeness.complete
    assert "Nothing: every cell of the study finished." in page
    assert "ncomplete" not in page


def test_a_study_with_missing_cells_says_so_at_every_table_figure_and_finding(tmp_path, every_figure):
    made = small()
    keys = list(made.content)
    named = {"key": keys[5], "model": "small-a", "task": "shapes", "method": "gsp", "keep": "1/9", "seed": 3}
    made.planned = {"keys": [*keys, "f" * 32], "cells": [named]}
    made.broken = {keys[4]: "cells/x.parquet is empty"}
    del made.content[keys[4]], made.content[keys[5]]
    note = f"Incomplete study: 3 of {len(keys) + 1} planned cells have no result."
    written, page = report(made, tmp_path)
    assert written.completeness.note == note
    assert "every cell of the study finished" not in page
    assert all(note in answer.text for question in written.answers for answer in question.answers)
    for file in written.files:
        if file.suffix in (".md", ".tex", ".svg"):
            assert note.rstrip(".") in file.read_text(encoding="utf-8"), file
        if file.suffix == ".csv":
            lines = file.read_text(encoding="utf-8").splitlines()
            assert all(note in line for line in lines[1:]), file
    assert page.count("<figcaption>") == len(re.findall(rf"<figcaption>[^<]*{re.escape(note)}", page)) > 3
    assert page.count("<table") - page.count('class="steps"') > 3
    missing = page.partition('<section id="missing">')[2].partition("</section>")[0]
    assert "gsp, seed 3 on shapes" in missing
    assert f"cell {'f' * 32}" in missing
    assert "cells/x.parquet is empty" in missing


def test_a_failure_is_a_missing_cell():
    made = small()
    broken = synthetic.cell(TASK, "small-a", "divprune", "method", "1/9")
    made.failed.append(Failure(broken, "OutOfMemoryError: much", ""))
    found = check_completeness(made)
    assert (found.planned, found.complete) == (len(made.content) + 1, False)
    assert [(one.what, one.keep, one.reason) for one in found.unfinished] == [
        ("divprune on shapes", "1/9", "OutOfMemoryError: much")
    ]


def test_without_a_plan_completeness_is_not_known(tmp_path):
    made = small()
    made.planned = {}
    written, page = report(made, tmp_path)
    assert not written.completeness.complete
    assert "every cell of the study finished" not in page
    assert "it is not known whether cells are missing" in page


# What cannot be computed

PARTS = (
    "_best_control_differences",
    "_plain_differences",
    "_compositions",
    "_attention_differences",
    "_inverse_differences",
    "_detectable",
)


@pytest.mark.parametrize("part", PARTS)
def test_a_statistic_that_cannot_be_computed_costs_its_answer(tmp_path, monkeypatch, part):
    def fail(*_):
        raise ZeroDivisionError("no samples left")

    monkeypatch.setattr(findings_module, part, fail)
    written, page = report(small(), tmp_path)
    texts = {question.name: question.answers[0].text for question in written.answers}
    lost = {name for name, text in texts.items() if "cannot be computed: ZeroDivisionError: no samples left" in text}
    assert 1 <= len(lost) <= 2
    assert "cannot be computed: ZeroDivisionError: no samples left" in page
    assert len(written.files) > 15


def test_numbers_that_are_none_cost_what_is_made_of_them(tmp_path):
    """A task that grades with no number: every statistic refuses it."""
    made = small()
    for key, (cell, rows) in list(made.content.items()):
        if cell.method == "gsp":
            made.content[key] = (cell, [replace(rows[0], correct=float("nan")), *rows[1:]])
    written, page = report(made, tmp_path)
    assert "cannot be computed: StudyError" in page
    assert any(question.name == "certainty" for question in written.answers)


@pytest.mark.parametrize(("module", "part"), [(curves, "token_axis"), (accuracy, "block_name")])
def test_a_figure_or_table_that_cannot_be_made_costs_itself(tmp_path, monkeypatch, module, part):
    def fail(*_, **__):
        raise ValueError("no such axis")

    monkeypatch.setattr(drawing, "MAKERS", (curves.accuracy_tokens, overlap, maps))
    monkeypatch.setattr(module, part, fail)
    written, page = report(small(), tmp_path)
    assert "ValueError: no such axis" in page
    assert sum(file.suffix == ".svg" for file in written.files) >= 2
    assert "ValueError: no such axis" in (tmp_path / "report.md").read_text(encoding="utf-8")


class Failing(Shapes):
    """A task whose files are gone since the run."""

    def samples(self):
        raise FileNotFoundError(2, "No such file or directory", "questions.jsonl")


class Cardless(Shapes):
    """A task that cannot say what it is."""

    def card(self):
        raise FileNotFoundError(2, "No such file or directory", "questions.jsonl")


def test_a_task_whose_code_fails_costs_the_viewer(tmp_path):
    made = small()
    tasks = {TASK.hash(): Failing(pictures=4)}
    written = write_report(made, tmp_path, default_registry(), tasks=tasks, samples=2)
    [problem] = written.problems
    assert problem.startswith("The viewer is not shown: FileNotFoundError: ")
    assert "The viewer is not shown: FileNotFoundError: " in written.page.read_text(encoding="utf-8")
    registry = default_registry()
    registry.add_task(Cardless)
    written = write_report(made, tmp_path, registry, samples=2)
    assert any("The pictures of shapes are not shown: FileNotFoundError" in problem for problem in written.problems)


# Text that others wrote


@pytest.mark.parametrize("kind", ["costs $1 or $2", r"$\frac{$", "a|b # *x*", "\ud800 half", "_kind"])
def test_any_type_of_question_can_be_shown(tmp_path, kind, recwarn):
    made = small()
    for key, (cell, rows) in list(made.content.items()):
        made.content[key] = (cell, [replace(one, kind=kind) if number % 2 else one for number, one in enumerate(rows)])
    written, _ = report(made, tmp_path, title=f"on {kind}")
    assert written.problems == ()
    if "$" in kind:
        [figure] = [file for file in written.files if file.name.startswith("kinds-") and file.suffix == ".svg"]
        assert kind in figure.read_text(encoding="utf-8")
    for line in (tmp_path / "report.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| "):
            cells = re.split(r"(?<!\\)\|", line)
            assert len(cells) >= 3


def test_markdown_heads_are_text(tmp_path):
    made = small()
    report(made, tmp_path, title="a*b*c\n# second `x`")
    first, second, *_ = (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()
    assert (first, second) == (r"# a\*b\*c \# second \`x\`", "")


def test_models_that_look_alike_have_their_own_files(tmp_path):
    names = ("a b", "a.b", "模型甲", "模型乙")
    if NIGHTLY:
        names += ("A", "a", "x" * 300, "x" * 299 + "y")
    made = small(models=names)
    written, page = report(made, tmp_path)
    assert len(written.files) == len(set(written.files)) == len({str(file).lower() for file in written.files})
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    accuracies = [file for file in written.files if file.name.startswith("accuracy-") and file.suffix == ".md"]
    assert len(accuracies) == len(names)
    assert set(names) == {file.read_text().splitlines()[0][4:].removesuffix(" on shapes") for file in accuracies}


def test_models_of_one_name_have_their_own_files(tmp_path):
    made = small()
    for cell, rows in list(made.content.values()):
        made.add(replace(cell, key=cell.key[::-1], model_hash="another"), rows)
    assert len(collect(made)) == 2
    written, page = report(made, tmp_path)
    assert len(written.files) == len(set(written.files))
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_names_that_are_their_own_stay():
    tables = [Table(f"ranks-{slug(title)}", title, (), ()) for title in ("a on b", "c on d", "c.on d")]
    first, second, third = unique_names(tables)
    assert first.name == "ranks-a-on-b"
    assert len({second.name, third.name, "ranks-c-on-d"}) == 3


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("path: /home/me/models/small", "path: .../small"),
        ("path: '/home/me/my models/small one'", "path: '.../small one'"),
        (r"C:\Users\me\model", ".../model"),
        ("(/srv/tasks/x.jsonl:12)", "(.../x.jsonl:12)"),
        ("file:///srv/x", "file:///srv/x"),
        ("s3://bucket/runs/x and https://a.b/c/d", "s3://bucket/runs/x and https://a.b/c/d"),
        (
            "keep 1/9, 3 / 2 / 1, a/b/c, ./models/x, ../x/y, org/name",
            "keep 1/9, 3 / 2 / 1, a/b/c, ./models/x, ../x/y, org/name",
        ),
        ("</script></b>", "</script></b>"),
    ],
)
def test_paths_of_a_machine_are_not_shown(text, shown):
    if text != "file:///srv/x":
        assert without_folders(text) == shown
    else:
        assert "/srv" not in without_folders(text)


def test_the_page_has_no_path_of_the_machine(tmp_path):
    made = small()
    study = json.dumps({"models": [{"name": "small-a", "path": str(tmp_path / "deep" / "checkpoint")}]})
    broken = synthetic.cell(TASK, "small-a", "divprune", "method", "1/9")
    made.failed.append(Failure(broken, f"OSError: {tmp_path}/deep/file.png is gone", ""))
    _, page = report(made, tmp_path / "out", studies=[study])
    assert str(tmp_path) not in page
    assert "checkpoint" in page
    assert "file.png is gone" in page


def test_encodable():
    assert encodable("a\ud800b漢") == "a\ufffdb漢"
