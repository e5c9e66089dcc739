"""Several runs in one report, and published numbers beside one's own."""

import pytest

from tokensieve.errors import StudyError
from tokensieve.plugins.registry import default_registry
from tokensieve.study.analysis.benchmarks import Benchmarks
from tokensieve.study.analysis.collect import collect
from tokensieve.study.analysis.completeness import check_completeness
from tokensieve.study.analysis.findings import make_findings
from tokensieve.study.analysis.merged import MergedResults
from tokensieve.study.report import PaperStyle, write_report
from tokensieve.study.report import files as files_module
from tokensieve.study.report.figures import draw as drawing
from tokensieve.study.report.figures.panels import by_kind
from tokensieve.study.report.labels import method_labels
from tokensieve.study.report.published import read_published
from tokensieve.study.report.tables.accuracy import accuracy_table
from tokensieve.study.report.tables.benchmarks import task_table
from tokensieve.study.report.tables.latex import LatexStyle, to_latex

from . import synthetic
from .synthetic import Made, Shapes

TASK = Shapes(pictures=6)


class Planned(Made):
    """Results with a plan of just their cells, or of none."""

    unplanned = False

    def plan(self):
        return {} if self.unplanned else {"keys": [*self.content, *self.missing]}

    missing = ()


def run(methods, keeps=("1/9",), task=TASK, name="shapes"):
    made = Planned(synthetic.study(task, models=("small-a",), keeps=keeps, methods=methods).content)
    for cell, _ in made.content.values():
        object.__setattr__(cell, "task", name)
    return made


def test_runs_of_the_same_card_are_one_comparison():
    merged = MergedResults([run(("gsp",)), run(("qcsp", "script"))])
    [comparison] = collect(merged)
    assert set(comparison.methods) == {"gsp", "qcsp", "script"}
    # The controls are in both runs, and count once.
    assert [arm.method for arm in comparison.arms].count("uniform") == 1
    assert comparison.excluded == ()
    [alone] = collect(run(("gsp", "qcsp", "script")))
    for arm in alone.arms:
        assert (comparison.find_arm(arm.method, arm.keep).correct == arm.correct).all()


def test_runs_of_other_cards_stand_beside_each_other():
    merged = MergedResults([run(("gsp",)), run(("gsp",), task=Shapes(pictures=6, protocol="b"))])
    assert [one.card["protocol"] for one in collect(merged)] == ["plain", "b"]


def test_methods_of_one_name_and_another_recipe_are_not_mixed():
    first, second = run(("gsp",)), Planned()
    cell = synthetic.cell(TASK, "small-a", "gsp", "method", "1/9")
    object.__setattr__(cell, "key", "abcd")
    synthetic.fill(second, TASK, cell, 0.1)
    [comparison] = collect(MergedResults([first, second]))
    [mine] = collect(first)
    assert (comparison.find_arm("gsp", "1/9").correct == mine.find_arm("gsp", "1/9").correct).all()
    assert comparison.excluded == ("gsp at 1/9: cell abcd is there twice, made by other code or another recipe",)


def test_what_is_missing_is_missing_in_all():
    first, second = run(("gsp",)), run(("qcsp",))
    [lost] = [key for key in first.content if key not in second.content and first.content[key][0].role == "method"]
    second.missing = (lost, "nowhere")
    merged = MergedResults([first, second])
    found = check_completeness(merged)
    assert [one.key for one in found.unfinished] == ["nowhere"]
    assert found.planned == len(merged.keys()) + 1
    second.unplanned = True
    assert check_completeness(merged).planned is None


# ------------------------------------------------------------------------------------------------------ published

PUBLISHED = """
- source: Gale, Table 1
  cite: gale2025
  model: small-a
  method: unpruned
  values: {shapes: 80, pope: 50.0}
- source: Gale, Table 1
  cite: gale2025
  model: small-a
  method: gale
  keep: 1/9
  values: {shapes: 60.5, pope: 45}
- {source: Hill, model: small-a, method: hill, keep: 1/9, values: {pope: 71.25}}
"""


@pytest.fixture(scope="module")
def both():
    made = run(("gsp", "fastv"))
    for key, content in run(("gsp", "fastv"), task=Shapes(pictures=6, protocol="b"), name="pope").content.items():
        made.content[key] = content
    return made, [make_findings(comparison, default_registry()) for comparison in collect(made)]


@pytest.fixture
def published(both, tmp_path):
    place = tmp_path / "published.yaml"
    place.write_text(PUBLISHED, encoding="utf-8")
    return read_published(place, [found.comparison for found in both[1]])


def rows_of(table, role="published"):
    return {line.label: line.cells for group in table.groups for line in group.rows if line.role == role}


def test_published_numbers_stand_in_the_table_of_all_tasks(both, published):
    table = task_table(Benchmarks.of(both[1]), published)
    assert rows_of(table) == {
        "unpruned, published": ("80.0", "50.0", pytest.approx(100), None, None),
        # The ratio is to the unpruned model of the same source: the mean of 60.5 / 80 and 45 / 50.
        "gale, published": ("60.5", "45.0", pytest.approx(100 * (0.75625 + 0.9) / 2), None, None),
        "hill, published": (None, "71.2", None, None, None),
    }
    [heading] = {group.heading for group in table.groups for line in group.rows if line.label == "gale, published"}
    assert heading.startswith("keep 1/9: 16 visual tokens")
    assert table.notes[-1] == (
        "Published: copied from the source, not measured here, and neither ranked nor compared. "
        "unpruned, gale: Gale, Table 1; hill: Hill."
    )


def test_published_numbers_stand_in_the_table_of_their_task(both, published):
    shapes, pope = (accuracy_table(found, published) for found in both[1])
    assert set(rows_of(shapes)) == {"unpruned, published", "gale, published"}
    assert set(rows_of(pope)) == {"unpruned, published", "gale, published", "hill, published"}
    place = shapes.columns.index("All")
    assert rows_of(shapes)["gale, published"][place : place + 2] == ("60.5", pytest.approx(75.625))
    # They change nothing else: what is bold, and all other rows, are as without them.
    bare = accuracy_table(both[1][0])
    assert [line for group in bare.groups for line in group.rows] == [
        line for group in shapes.groups for line in group.rows if line.role != "published"
    ]
    assert bare.notes == shapes.notes[:-1]


def test_published_numbers_cite_their_source(both, published):
    labels, _ = method_labels([found.comparison for found in both[1]], published)
    assert "gale, published~\\cite{gale2025}" in to_latex(
        task_table(Benchmarks.of(both[1]), published), LatexStyle(labels)
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1", "published numbers are a list"),
        ("- 1", "an entry is a mapping"),
        ("- {source: x, model: small-a, method: m, keep: 1/9}", "values: .*an entry has .*keep"),
        ("- {source: x, model: small-a, method: m, keep: 1/9, values: {shapes: high}}", "values.shapes: "),
        ("- {source: x, model: smal-a, method: m, keep: 1/9, values: {shapes: 1}}", "no model 'smal-a'.*'small-a'"),
        ("- {source: x, model: small-a, method: m, keep: 1/9, values: {shape: 1}}", "no task 'shape'.*'shapes'"),
        ("- {source: x, model: small-a, method: m, keep: 64, values: {shapes: 1}}", "no budget '64'; it has 1/9"),
        ("- {source: x, model: small-a, method: m, values: {shapes: 1}}", "need a keep, except those of 'unpruned'"),
        ("- {source: x, cite: 'a b', model: small-a, method: m, keep: 1/9, values: {shapes: 1}}", "cite: "),
        ("- {source: x\n", "published.yaml:"),
    ],
)
def test_published_numbers_that_do_not_fit_are_refused_with_their_line(both, tmp_path, text, said):
    place = tmp_path / "published.yaml"
    place.write_text(f"\n{text}", encoding="utf-8")
    with pytest.raises(StudyError, match=rf"(?s){said}.*published\.yaml:\d|{said}"):
        read_published(place, [found.comparison for found in both[1]])
    with pytest.raises(StudyError, match="cannot be read"):
        read_published(tmp_path / "none.yaml", [])


def test_the_report_has_them_everywhere(both, tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "MAKERS", (by_kind,))
    monkeypatch.setattr(files_module, "KINDS", ("svg",))
    place = tmp_path / "published.yaml"
    place.write_text(PUBLISHED, encoding="utf-8")
    paper = PaperStyle(place, intervals=False, columns=("shapes", "pope"))
    written = write_report(both[0], tmp_path / "out", default_registry(), tasks={}, paper=paper)
    names = {file.name for file in written.files}
    assert "mean-small-a.svg" in names
    page = written.page.read_text(encoding="utf-8")
    assert '<tr class="published"><th scope="row">gale, published</th>' in page
    assert page.index('id="headline"') < page.index('id="figure-mean-small-a"') < page.index('id="findings"')
    latex = (tmp_path / "out/tables/tasks-small-a.tex").read_text(encoding="utf-8")
    assert "gale, published~\\cite{gale2025} & 60.5 & 45.0 \\\\" in latex
    assert "GFLOPs" not in latex.split("\\toprule")[1]
    assert "pm" not in latex.split("\\toprule")[1]
    assert "gale, published,published,60.5" in (tmp_path / "out/tables/tasks-small-a.csv").read_text("utf-8").replace(
        '"', ""
    )
