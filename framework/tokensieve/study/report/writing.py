"""Writing a report: one page, and its tables and figures as files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tokensieve.errors import StudyError
from tokensieve.plugins.registry import Registry
from tokensieve.study.analysis.attempt import attempt
from tokensieve.study.analysis.benchmarks import Benchmarks
from tokensieve.study.analysis.collect import Results, collect
from tokensieve.study.analysis.comparison import Comparison
from tokensieve.study.analysis.completeness import Completeness, check_completeness
from tokensieve.study.analysis.findings import Findings, by_model, make_findings
from tokensieve.study.analysis.measured import encodable
from tokensieve.study.report import viewer
from tokensieve.study.report.answers import Question, answer_questions, uncomputed_text
from tokensieve.study.report.figures.draw import draw
from tokensieve.study.report.files import write_files
from tokensieve.study.report.headline import headline
from tokensieve.study.report.labels import method_labels
from tokensieve.study.report.names import unique_names
from tokensieve.study.report.page import make_page
from tokensieve.study.report.parts import ReportParts, Section
from tokensieve.study.report.provenance import missing_results
from tokensieve.study.report.published import PublishedResult, read_published
from tokensieve.study.report.tables.accuracy import accuracy_table, measures_table
from tokensieve.study.report.tables.benchmarks import task_table
from tokensieve.study.report.tables.latex import LatexStyle, checked_columns
from tokensieve.study.report.tables.ranks import record_table
from tokensieve.study.report.tables.values import Table, slug
from tokensieve.study.report.tasks import rebuild_tasks, unchanged_tasks
from tokensieve.tasks.base import Task

SAMPLES = 24

Progress = Callable[[str], None]


STEPS = ("reading cells", "comparing", "drawing", "writing")
"""What `write_report` does, in turn."""


@dataclass(frozen=True)
class WrittenReport:
    """A report that was written.

    Attributes:
        page: the path of the page.
        files: the paths of all other files.
        headline: the sentence that it starts with.
        findings: the findings, one for each comparison.
        answers: the questions with their answers.
        problems: what could not be shown, and why.
        completeness: which planned cells have no result.
    """

    page: Path
    files: tuple[Path, ...]
    headline: str
    findings: tuple[Findings, ...]
    answers: tuple[Question, ...]
    problems: tuple[str, ...]
    completeness: Completeness


@dataclass(frozen=True)
class PaperStyle:
    """How the tables of a report are written for a paper.

    Attributes:
        published: a YAML file of published results that stand beside the study's; none by default.
        intervals: whether LaTeX tables print intervals.
        columns: the columns of the main tables in LaTeX, in this order; all by default.
    """

    published: Path | None = None
    intervals: bool = True
    columns: tuple[str, ...] = ()


def write_report(
    results: Results,
    out: Path,
    registry: Registry,
    *,
    title: str = "Study",
    studies: Sequence[str] = (),
    tasks: Mapping[str, Task] | None = None,
    samples: int = SAMPLES,
    paper: PaperStyle | None = None,
    section: Section | None = None,
    progress: Progress = lambda _: None,
) -> WrittenReport:
    """Write a report of a study, or of several whose results are merged.

    Args:
        results: the store, or an object like it.
        out: the folder of the report. It is made if needed, and files of the same names are replaced.
        registry: where recipes and tasks are looked up.
        title: the title of the page.
        studies: the studies as YAML; they are shown, and tasks are built from them.
        tasks: the tasks by the hash of their cards, for measures, questions and images; by default, they are built from
            the studies and the cards.
        samples: the number of questions of each comparison in the viewer.
        paper: how tables are written for a paper.
        section: what stands before everything else.
        progress: called with the name of each step.

    Raises:
        StudyError: if no cell is finished, a cell cannot be used, published numbers or columns do not fit the study, or
            nothing can be written.
        RecipeError: if a study is not valid YAML.
    """
    paper = paper or PaperStyle()
    progress(STEPS[0])
    comparisons = collect(results)
    if not comparisons:
        raise StudyError(f"'{title}' has no finished cell to report on; run it first: tokensieve compare")
    published = () if paper.published is None else read_published(paper.published, comparisons)
    progress(STEPS[1])
    completeness = check_completeness(results)
    note = f"{completeness.note} See “Missing” in the report." if completeness.note else ""
    all_findings = [make_findings(comparison, registry) for comparison in comparisons]
    # Their averages are bootstrapped, for the table and for the figure at once.
    benchmarks = [found for ours in by_model(all_findings) if (found := Benchmarks.of(ours)) is not None]
    asked = [*([] if section is None else [section.question]), *answer_questions(all_findings, note)]
    made, problems = (tasks, []) if tasks is not None else rebuild_tasks(comparisons, registry, studies)
    pictured, changed = (tasks, []) if tasks is not None else unchanged_tasks(comparisons, made)
    tables, asked = _with_own_names(_tables(all_findings, benchmarks, made, published), asked, note)
    labels, references = method_labels(comparisons, published)
    latex = LatexStyle(labels, paper.intervals, checked_columns(paper.columns, tables))
    progress(STEPS[2])
    undrawn: dict[str, str] = {}
    drawn = draw(all_findings, benchmarks, completeness.note, undrawn)
    drawings = unique_names([*(() if section is None else section.drawings), *drawn])
    shown = _viewer(comparisons, pictured, samples)
    shown.problems = [*problems, *changed, *shown.problems]
    first = "" if section is None else f"{section.headline} "
    opening = f"{first}{_headline(all_findings)} {completeness.note}".strip()
    parts = ReportParts(
        title, opening, studies, tuple(all_findings), asked, tables, drawings, undrawn, completeness, latex, references
    )
    page = make_page(parts, shown, missing_results(results.plan(), completeness, comparisons))
    progress(STEPS[3])
    try:
        files = write_files(out, parts)
        place = out / "index.html"
        place.write_text(encodable(page), encoding="utf-8")
    except OSError as error:
        raise StudyError(f"the report cannot be written into {out}: {error.strerror or error}") from None
    told = [*shown.problems, *(f"{name} is not drawn: {why}" for name, why in undrawn.items())]
    return WrittenReport(place, tuple(files), opening, tuple(all_findings), tuple(asked), tuple(told), completeness)


def _headline(all_findings: Sequence[Findings]) -> str:
    """Return the sentence that the report starts with; where it cannot be computed, it says why."""
    why: dict[str, str] = {}
    return attempt(lambda: headline(all_findings), None, "headline", why) or f"What won: {uncomputed_text(why)}"


def _viewer(comparisons: Sequence[Comparison], tasks: Mapping[str, Task], samples: int) -> viewer.ViewerContent:
    """Return the content of the viewer; without pictures if the code of a task fails."""
    why: dict[str, str] = {}
    shown = attempt(lambda: viewer.viewer_content(comparisons, tasks, samples), None, "The viewer", why)
    return shown or viewer.ViewerContent(problems=[f"{name} is not shown: {reason}" for name, reason in why.items()])


def _tables(
    all_findings: Sequence[Findings],
    benchmarks: Sequence[Benchmarks],
    tasks: Mapping[str, Task],
    published: Sequence[PublishedResult],
) -> list[Table]:
    """Return the tables of a report. One that cannot be computed has no rows, and says why."""
    measured = [one.comparison for one in all_findings if one.comparison.card_hash in tasks]
    makers: list[tuple[str, str, Callable[[], Table | None]]] = [
        *(("tasks", f"{own.model}: all tasks", partial(task_table, own, published)) for own in benchmarks),
        *(("accuracy", one.comparison.title, partial(accuracy_table, one, published)) for one in all_findings),
        *(
            ("measures", f"{one.title}: measures of the task", partial(measures_table, one, tasks[one.card_hash]))
            for one in measured
        ),
        *(
            ("record", f"{one.comparison.title}: wins, ties and losses", partial(record_table, one))
            for one in all_findings
        ),
    ]
    tables = []
    for name, title, make in makers:
        why: dict[str, str] = {}
        table = attempt(make, None, name, why)
        if why:
            table = Table(f"{name}-{slug(title)}", title, (), (), (uncomputed_text(why),))
        tables += [] if table is None else [table]
    return tables


def _with_own_names(
    tables: Sequence[Table], asked: Sequence[Question], warning: str
) -> tuple[list[Table], list[Question]]:
    """Return tables and questions where every table has a name of its own, and a warning."""
    named = iter(unique_names([*tables, *(table for question in asked for table in question.tables)]))
    own = [replace(next(named), warning=warning) for _ in tables]
    return own, [
        replace(question, tables=tuple(replace(next(named), warning=warning) for _ in question.tables))
        for question in asked
    ]
