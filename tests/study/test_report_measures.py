"""Measures of a task beside its metric: made of all grades by the task itself; references are counted by hand."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from tokensieve.plugins.registry import default_registry
from tokensieve.study.analysis.collect import collect
from tokensieve.study.report import tasks, write_report
from tokensieve.study.report.tables.accuracy import measures_table
from tokensieve.tasks import Answer
from tokensieve.tasks.jsonl import VqaJsonl

from . import synthetic
from .synthetic import Made, Shapes

RIGHTS = ["yes", "no", "yes", "no", "no", "yes", "yes", "no", "no"]
NAMES = ["yes_no", "understood", "precision", "recall", "f1", "yes_ratio"]


@pytest.fixture
def asked(tmp_path):
    """Yes and no, of three pictures, with the study that asks."""
    file = tmp_path / "pope.jsonl"
    lines = [
        {"image": f"{n // 3}.png", "question": f"Is there a {n}?", "answer": right, "id": f"q{n}", "kind": f"k{n % 3}"}
        for n, right in enumerate(RIGHTS)
    ]
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    for n in range(3):
        Image.new("RGB", (8, 8), (n, n, n)).save(tmp_path / f"{n}.png")
    study = json.dumps({"tasks": [{"name": "pope", "use": "vqa_jsonl", "path": str(file), "metric": "yes_no"}]})
    return VqaJsonl(path=str(file), metric="yes_no"), study


def says(method, keep, seed, number):
    """An answer that depends on the method, the budget and the draw; one type is easy without pruning."""
    if method == "unpruned" and number % 3 == 0:
        return RIGHTS[number]
    return synthetic.draws((method, keep, seed, number)).choice(["Yes.", "yes, I see it", "No", "no.", "a dog"])


@pytest.fixture
def made(asked):
    """A study of these questions."""
    task, _ = asked
    made = Made()
    cells = [("unpruned", "unpruned", None, None), ("text_only", "text_only", None, None)]
    for keep in ("1/3", "1/9"):
        cells += [("gsp", "method", keep, None), ("fastv", "method", keep, None), ("uniform", "uniform", keep, None)]
        cells += [("random", "random", keep, seed) for seed in (0, 1, 2)]
        cells += [("inverted gsp", "inverted", keep, None), ("oracle", "oracle", keep, None)]
    shapes = Shapes(pictures=1)
    for method, role, keep, seed in cells:
        of = method.removeprefix("inverted ") if role == "inverted" else None
        cell = replace(
            synthetic.cell(shapes, "m", method, role, keep, seed, of),
            task="pope",
            card=task.card(),
            card_hash=task.hash(),
        )
        kept = None if keep is None else synthetic.KEEPS[keep]
        template = synthetic.row(cell, synthetic.sample(0, 0), 0.5, kept, 0.5)
        rows = []
        for number, sample in enumerate(task.samples()):
            text = says(method, keep, seed, number)
            grades = dict(task.grade(sample, Answer(text), None))
            rows.append(
                replace(
                    template,
                    sample=sample.id,
                    kind=sample.kind,
                    image=sample.image,
                    answer=text,
                    grades=grades,
                    correct=grades["yes_no"],
                )
            )
        made.add(cell, rows)
    return made


def counted(method, keep, seeds):
    """POPE's measures of a method, the mean over draws."""
    found = []
    for seed in seeds:
        said = [says(method, keep, seed, number)[0].lower() for number in range(len(RIGHTS))]
        both = list(zip(said, RIGHTS, strict=True))
        hits, claims = both.count(("y", "yes")), said.count("y")
        precision = hits / claims if claims else 0
        recall = hits / RIGHTS.count("yes")
        right = hits + both.count(("n", "no"))
        f1 = 2 * precision * recall / (precision + recall) if hits else 0
        known = len(said) - said.count("a")
        found.append([one / len(said) for one in (right, known)] + [precision, recall, f1, claims / len(said)])
    return [sum(column) / len(found) for column in zip(*found, strict=True)]


def test_the_measures_of_every_method_at_every_budget(made, asked):
    task, _ = asked
    [comparison] = collect(made)
    table = measures_table(comparison, task)
    assert table.title == "m on pope: measures of the task"
    assert list(table.columns) == NAMES
    assert [group.heading.split(":")[0].partition(" visual")[0] for group in table.groups] == [
        *("All 144", "keep 1/3", "keep 1/3", "keep 1/9", "keep 1/9")
    ]
    seen = []
    for group in table.groups:
        keep = group.heading.split(":")[0].removeprefix("keep ") if group.heading.startswith("keep") else None
        for line in group.rows:
            seeds = (0, 1, 2) if line.label == "random" else (None,)
            expected = counted(line.label, keep, seeds)
            assert [float(cell) for cell in line.cells] == pytest.approx(expected, abs=5.1e-4), line.label
            seen.append((line.label, keep))
    arms = {(arm.method, arm.keep) for arm in comparison.arms if arm.role != "inverted"}
    assert sorted(seen, key=str) == sorted(arms, key=str)
    assert "Over all 9 questions" in table.notes[0]


def test_all_questions_count_also_those_that_the_headline_leaves_out(made, asked):
    task, _ = asked
    [comparison] = collect(made)
    assert not comparison.headline.all()
    [line] = [line for line in measures_table(comparison, task).groups[0].rows if line.label == "unpruned"]
    assert float(line.cells[0]) == pytest.approx(comparison.unpruned.correct.mean(), abs=5e-4)


def test_a_task_with_nothing_but_its_metric_has_no_such_table():
    task = Shapes(pictures=2)
    made = Made()
    synthetic.fill(made, task, synthetic.cell(task, "m", "gsp", "method", "1/3"), 0.5)
    [comparison] = collect(made)
    assert measures_table(comparison, task) is None


class Odd(Shapes):
    """Its measures are of no size in particular."""

    def summary(self, grades):
        return {"exact": 0.5, "tiny": 0.0001, "none": float("nan"), "large": 12345.6, "zero": 0.0}


def test_measures_are_printed_whatever_their_size():
    task = Odd(pictures=2)
    made = Made()
    synthetic.fill(made, task, synthetic.cell(task, "m", "gsp", "method", "1/3"), 0.5)
    [comparison] = collect(made)
    [group] = measures_table(comparison, task).groups
    assert group.rows[0].cells == ("0.500", "0.00010", None, "12345.600", "0.000")


def test_columns_of_grades_are_those_of_the_rows(made):
    [comparison] = collect(made)
    for arm in comparison.arms:
        for cell in arm.cells:
            rows = {row.sample: row for row in made.content[cell.cell.key][1]}
            for name in cell.grades:
                assert cell.grades[name].tolist() == [rows[sample].grades[name] for sample in comparison.samples]
            assert set(cell.grades) == set(rows[comparison.samples[0]].grades)


# ------------------------------------------------------------------------------------------------ tasks made again


def test_a_task_with_files_is_made_as_the_study_asks_for_it(made, asked):
    task, study = asked
    comparisons = collect(made)
    found, problems = tasks.rebuild_tasks(comparisons, default_registry(), [study])
    assert (found, problems) == ({task.hash(): task}, [])
    assert tasks.unchanged_tasks(comparisons, found) == (found, [])
    # Its card does not say where its files are.
    found, [problem] = tasks.rebuild_tasks(comparisons, default_registry())
    assert found == {}
    assert problem.startswith("The pictures and measures of pope are not shown: the task 'vqa_jsonl': path: ")


def test_a_task_of_some_models_is_made_as_any_other(made, asked):
    task, study = asked
    data = json.loads(study)
    data["tasks"][0]["models"] = ["m"]
    found, problems = tasks.rebuild_tasks(collect(made), default_registry(), [json.dumps(data)])
    assert (found, problems) == ({task.hash(): task}, [])


def test_measures_need_no_files(made, asked, tmp_path):
    _, study = asked
    comparisons = collect(made)
    (tmp_path / "pope.jsonl").unlink()
    found, problems = tasks.rebuild_tasks(comparisons, default_registry(), [study])
    assert problems == []
    assert measures_table(comparisons[0], found[comparisons[0].card_hash]) is not None
    found, [problem] = tasks.unchanged_tasks(comparisons, found)
    assert found == {}
    assert problem.startswith("The pictures of pope are not shown: ")
    assert "pope.jsonl" in problem


@pytest.mark.parametrize("change", [{"metric": "exact"}, {"use": "world"}])
def test_a_study_that_asks_something_else_now_is_not_taken(made, asked, change):
    _, study = asked
    data = json.loads(study)
    data["tasks"][0] |= change
    if "use" in change:
        del data["tasks"][0]["path"], data["tasks"][0]["metric"]
    found, [problem] = tasks.rebuild_tasks(collect(made), default_registry(), [json.dumps(data)])
    assert found == {}
    assert problem == "The pictures and measures of pope are not shown: the task is not what it was at the run."


def test_the_report_has_them(made, asked, tmp_path):
    _, study = asked
    written = write_report(made, tmp_path / "report", default_registry(), studies=[study])
    assert written.problems == ()
    page = written.page.read_text(encoding="utf-8")
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "### m on pope: measures of the task" in text
    assert "<caption>m on pope: measures of the task</caption>" in page
    assert {"measures-m-on-pope.md", "measures-m-on-pope.tex", "measures-m-on-pope.csv"} <= {
        file.name for file in written.files
    }
    # The pictures are found as well.
    assert "data:image/png;base64," in page
