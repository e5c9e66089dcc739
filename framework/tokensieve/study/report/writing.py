"""Writing a report: one page, and its tables and figures as files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from tokensieve.errors import StudyError
from tokensieve.plugins.registry import Registry
from tokensieve.study.analysis.attempt import attempt
from tokensieve.study.analysis.collect import Results, collect
from tokensieve.study.analysis.comparison import Comparison
from tokensieve.study.analysis.completeness import Completeness, check_completeness
from tokensieve.study.analysis.findings import Findings, make_findings
from tokensieve.study.analysis.measured import encodable
from tokensieve.study.report import viewer
from tokensieve.study.report.answers import Question, answer_questions, uncomputed_text
from tokensieve.study.report.figures.draw import draw
from tokensieve.study.report.figures.style import Drawing
from tokensieve.study.report.names import unique_names
from tokensieve.study.report.provenance import (
    MissingResult,
    comparability_warnings,
    missing_results,
    provenance,
    task_cards,
)
from tokensieve.study.report.tables.accuracy import accuracy_table, measures_table, task_table
from tokensieve.study.report.tables.formats import escape_markdown, to_csv, to_latex, to_markdown
from tokensieve.study.report.tables.ranks import record_table
from tokensieve.study.report.tables.values import (
    Delta,
    Share,
    Table,
    TableCell,
    cell_text,
    slug,
    with_columns_first,
)
from tokensieve.study.report.tasks import rebuild_tasks, unchanged_tasks
from tokensieve.study.report.text import without_folders
from tokensieve.tasks.base import Task

SAMPLES = 24
KINDS = ("svg", "png", "pdf")
BOUNDS = ("unpruned", "text_only", "oracle", "anti_oracle", "inverted")

Progress = Callable[[str], None]


STEPS = ("reading cells", "comparing", "drawing", "writing")
"""What `write_report` does, in turn."""


@dataclass(frozen=True)
class WrittenReport:
    """A report that was written.

    Attributes:
        page: the path of the page.
        files: the paths of all other files.
        findings: the findings, one for each comparison.
        answers: the questions with their answers.
        problems: what could not be shown, and why.
        completeness: which planned cells have no result.
    """

    page: Path
    files: tuple[Path, ...]
    findings: tuple[Findings, ...]
    answers: tuple[Question, ...]
    problems: tuple[str, ...]
    completeness: Completeness


@dataclass(frozen=True)
class _Parts:
    """What the page and the files of a report are made of.

    Attributes:
        title: the title of the report.
        study: the study as YAML.
        findings: the findings, one for each comparison.
        asked: the questions with their answers.
        tables: the tables that belong to no question.
        drawings: the figures.
        undrawn: why other figures could not be drawn, by name.
        completeness: which planned cells have no result.
    """

    title: str
    study: str
    findings: tuple[Findings, ...]
    asked: Sequence[Question]
    tables: Sequence[Table]
    drawings: Sequence[Drawing]
    undrawn: Mapping[str, str]
    completeness: Completeness


def write_report(
    results: Results,
    out: Path,
    registry: Registry,
    *,
    title: str = "Study",
    study: str = "",
    tasks: Mapping[str, Task] | None = None,
    samples: int = SAMPLES,
    progress: Progress = lambda _: None,
) -> WrittenReport:
    """Write a report of a study.

    Args:
        results: the store, or an object like it.
        out: the folder of the report. It is made if needed, and files of the same names are replaced.
        registry: where recipes and tasks are looked up.
        title: the title of the page.
        study: the study as YAML; it is shown, and tasks are built from it.
        tasks: the tasks by the hash of their cards, for measures, questions and images; by default, they are built from
            the study and the cards.
        samples: the number of questions of each comparison in the viewer.
        progress: called with the name of each step.

    Raises:
        StudyError: if no cell is finished, a cell cannot be used, or nothing can be written.
        RecipeError: if the study is not valid YAML.
    """
    progress(STEPS[0])
    comparisons = collect(results)
    if not comparisons:
        raise StudyError(f"'{title}' has no finished cell to report on; run it first: tokensieve compare")
    progress(STEPS[1])
    completeness = check_completeness(results)
    note = f"{completeness.note} See “Missing” in the report." if completeness.note else ""
    all_findings = [make_findings(comparison, registry) for comparison in comparisons]
    asked = answer_questions(all_findings, note)
    made, problems = (tasks, []) if tasks is not None else rebuild_tasks(comparisons, registry, study)
    pictured, changed = (tasks, []) if tasks is not None else unchanged_tasks(comparisons, made)
    tables, asked = _with_own_names(_tables(all_findings, made), asked, note)
    progress(STEPS[2])
    undrawn: dict[str, str] = {}
    drawings = unique_names(draw(all_findings, completeness.note, undrawn))
    shown = _viewer(comparisons, pictured, samples)
    shown.problems = [*problems, *changed, *shown.problems]
    parts = _Parts(title, study, tuple(all_findings), asked, tables, drawings, undrawn, completeness)
    missing = missing_results(results.plan(), completeness, comparisons)
    page = _page(parts, shown, missing)
    progress(STEPS[3])
    try:
        files = _files(out, parts)
        place = out / "index.html"
        place.write_text(encodable(page), encoding="utf-8")
    except OSError as error:
        raise StudyError(f"the report cannot be written into {out}: {error.strerror or error}") from None
    told = [*shown.problems, *(f"{name} is not drawn: {why}" for name, why in undrawn.items())]
    return WrittenReport(place, tuple(files), tuple(all_findings), tuple(asked), tuple(told), completeness)


def _viewer(comparisons: Sequence[Comparison], tasks: Mapping[str, Task], samples: int) -> viewer.ViewerContent:
    """Return the content of the viewer; without pictures if the code of a task fails."""
    why: dict[str, str] = {}
    shown = attempt(lambda: viewer.viewer_content(comparisons, tasks, samples), None, "The viewer", why)
    return shown or viewer.ViewerContent(problems=[f"{name} is not shown: {reason}" for name, reason in why.items()])


def _tables(all_findings: Sequence[Findings], tasks: Mapping[str, Task]) -> list[Table]:
    """Return the tables of a report. One that cannot be computed has no rows, and says why."""
    models: dict[tuple[str, str], list[Findings]] = {}
    for findings in all_findings:
        models.setdefault((findings.comparison.model, findings.comparison.model_hash), []).append(findings)
    measured = [one.comparison for one in all_findings if one.comparison.card_hash in tasks]
    makers: list[tuple[str, str, Callable[[], Table | None]]] = [
        *(("tasks", f"{ours[0].comparison.model}: all tasks", partial(task_table, ours)) for ours in models.values()),
        *(("accuracy", one.comparison.title, partial(accuracy_table, one)) for one in all_findings),
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


def _files(out: Path, parts: _Parts) -> list[Path]:
    everything = [*parts.tables, *(table for question in parts.asked for table in question.tables)]
    written = []

    def put_text(folder: str, name: str, text: str) -> None:
        put(folder, name, encodable(without_folders(text)).encode())

    def put(folder: str, name: str, content: bytes) -> None:
        place = out / folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        written.append(place)

    for table in everything:
        put_text("tables", f"{table.name}.md", to_markdown(table))
        put_text("tables", f"{table.name}.tex", to_latex(table))
        put_text("tables", f"{table.name}.csv", to_csv(table))
    for drawing in parts.drawings:
        for kind in KINDS:
            put("figures", f"{drawing.name}.{kind}", drawing.to_bytes(kind))
    put_text("", "report.md", _markdown(parts))
    return written


def _markdown(parts: _Parts) -> str:
    escaped = escape_markdown
    lines = [f"# {escaped(parts.title)}", ""]
    lines += [f"**{escaped(parts.completeness.note)}**", ""] if parts.completeness.note else []
    lines += ["## Findings", ""]
    lines += [f"> {escaped(warning)}\n" for warning in comparability_warnings(parts.findings)]
    for question in parts.asked:
        lines += [f"### {escaped(question.text)}", ""]
        for answer in question.answers:
            lines.append(f"- **{escaped(answer.title)}**: {escaped(answer.text)}")
            lines += [f"    - {escaped(name)}: {escaped(said)}" for name, said in answer.points]
        lines += ["", *(to_markdown(table).replace("### ", "#### ", 1) for table in question.tables)]
    lines += ["## Tables", "", *(to_markdown(table) for table in parts.tables), "## Figures", ""]
    lines += [f"![{escaped(one.title)}](figures/{one.name}.svg)\n\n{escaped(one.caption)}\n" for one in parts.drawings]
    lines += [f"{escaped(name)} is not drawn: {escaped(why)}\n" for name, why in parts.undrawn.items()]
    return "\n".join(lines)


def _page(parts: _Parts, shown: viewer.ViewerContent, missing: Sequence[MissingResult]) -> str:
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    def finalize(value: object) -> object:
        """Return what the page prints: text without paths of this machine; markup and numbers as they are."""
        return without_folders(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=FunctionLoader(_asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=False,
        finalize=finalize,
    )
    return environment.get_template("page.html").render(
        title=parts.title,
        incomplete=parts.completeness.note,
        complete=parts.completeness.complete,
        undrawn=parts.undrawn,
        # Safe: files of this package, figures by matplotlib, and JSON without tags.
        css=Markup(_asset("page.css")),  # noqa: S704
        js=Markup(_asset("page.js")),  # noqa: S704
        viewer=Markup(shown.to_json()) if any(view["methods"] for view in shown.views) else "",  # noqa: S704
        drawings=[
            {
                "name": one.name,
                "title": one.title,
                "caption": one.caption,
                "wide": one.wide,
                "svg": Markup(one.accessible),  # noqa: S704
            }
            for one in parts.drawings
        ],
        facts=_facts(parts.findings),
        questions=parts.asked,
        warnings=comparability_warnings(parts.findings),
        # The page has the main columns first; files have them last, as papers do.
        tables=[with_columns_first(table, ("All", "Rel. %", "Δ best control", "p")) for table in parts.tables],
        problems=shown.problems,
        missing=missing,
        provenance=provenance(parts.findings),
        cards=task_cards(parts.findings),
        study=parts.study,
        version=metadata.version("tokensieve"),
        standing=lambda role: "" if role == "method" else "bound" if role in BOUNDS else "control",
        cell_of=_cell,
    )


def _facts(all_findings: Sequence[Findings]) -> list[tuple[str, str]]:
    comparisons = [findings.comparison for findings in all_findings]
    smallest = [findings.detectable for findings in all_findings if findings.detectable is not None]
    counts = sorted({len(one.samples) for one in comparisons})
    facts = [
        ("Models", ", ".join(dict.fromkeys(one.model for one in comparisons))),
        ("Tasks", ", ".join(dict.fromkeys(one.task for one in comparisons))),
        ("Methods", str(len({name for one in comparisons for name in one.methods}))),
        ("Cells", str(sum(len(arm.cells) for one in comparisons for arm in one.arms))),
        ("Questions a cell", " / ".join(map(str, counts))),
    ]
    if smallest:
        points = f"{100 * min(smallest):.1f}"
        if len(smallest) > 1 and f"{100 * max(smallest):.1f}" != points:
            points += f" to {100 * max(smallest):.1f}"
        facts.append(("Smallest detectable difference", f"{points} points"))
    return facts


def _asset(name: str) -> str:
    return resources.files("tokensieve.study.report").joinpath("assets", name).read_text(encoding="utf-8")


def _cell(cell: TableCell) -> Any:
    """Return a cell of a table as HTML."""
    from markupsafe import Markup

    if isinstance(cell, Share):
        number, _, spread = cell_text(cell).partition(" ")
        value = Markup("<strong>{}</strong>").format(number) if cell.best else number
        return Markup("<td>{} <small>{}</small></td>").format(value, spread)
    if isinstance(cell, Delta):
        number, _, rest = cell_text(cell).partition(" ")
        return Markup('<td class="{}">{} <small>{}</small></td>').format(cell.difference.verdict, number, rest)
    return Markup("<td>{}</td>").format(cell_text(cell))
