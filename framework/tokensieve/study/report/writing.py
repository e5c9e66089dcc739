"""Writing a report: one page, and its tables and figures as files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from tokensieve.errors import StudyError
from tokensieve.plugins.registry import Registry
from tokensieve.study.analysis.collect import Results, collect
from tokensieve.study.analysis.findings import Findings, make_findings
from tokensieve.study.report import viewer
from tokensieve.study.report.answers import Question, answer_questions
from tokensieve.study.report.figures.draw import draw
from tokensieve.study.report.figures.style import Drawing
from tokensieve.study.report.provenance import comparability_warnings, missing_results, provenance, task_cards
from tokensieve.study.report.tables.accuracy import accuracy_table, measures_table, task_table
from tokensieve.study.report.tables.formats import to_csv, to_latex, to_markdown
from tokensieve.study.report.tables.ranks import record_table
from tokensieve.study.report.tables.values import Delta, Share, Table, TableCell, cell_text, with_columns_first
from tokensieve.study.report.tasks import rebuild_tasks, unchanged_tasks
from tokensieve.tasks.base import Task

SAMPLES = 24
KINDS = ("svg", "png", "pdf")
BOUNDS = ("unpruned", "text_only", "oracle", "anti_oracle", "inverted")

Progress = Callable[[str], None]


@dataclass(frozen=True)
class WrittenReport:
    """A report that was written.

    Attributes:
        page: the path of the page.
        files: the paths of all other files.
        findings: the findings, one for each comparison.
        answers: the questions with their answers.
        problems: what could not be shown, and why.
    """

    page: Path
    files: tuple[Path, ...]
    findings: tuple[Findings, ...]
    answers: tuple[Question, ...]
    problems: tuple[str, ...]


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
    progress("reading cells")
    comparisons = collect(results)
    if not comparisons:
        raise StudyError(f"'{title}' has no finished cell to report on; run it first: tokensieve compare")
    progress("comparing")
    all_findings = [make_findings(comparison, registry) for comparison in comparisons]
    asked = answer_questions(all_findings)
    made, problems = (tasks, []) if tasks is not None else rebuild_tasks(comparisons, registry, study)
    pictured, changed = (tasks, []) if tasks is not None else unchanged_tasks(comparisons, made)
    tables = _tables(all_findings, made)
    progress("drawing")
    drawings = draw(all_findings)
    shown = viewer.viewer_content(comparisons, pictured, samples)
    shown.problems = [*problems, *changed, *shown.problems]
    page = _page(results, all_findings, asked, tables, drawings, shown, title, study)
    progress("writing")
    try:
        files = _files(out, all_findings, asked, tables, drawings, title)
        place = out / "index.html"
        place.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StudyError(f"the report cannot be written into {out}: {error.strerror or error}") from None
    return WrittenReport(place, tuple(files), tuple(all_findings), tuple(asked), tuple(shown.problems))


def _tables(all_findings: Sequence[Findings], tasks: Mapping[str, Task]) -> list[Table]:
    models: dict[tuple[str, str], list[Findings]] = {}
    for findings in all_findings:
        models.setdefault((findings.comparison.model, findings.comparison.model_hash), []).append(findings)
    joint = [table for ours in models.values() if (table := task_table(ours)) is not None]
    records = [table for findings in all_findings if (table := record_table(findings)) is not None]
    measures = [
        table
        for findings in all_findings
        if (task := tasks.get(findings.comparison.card_hash)) is not None
        and (table := measures_table(findings.comparison, task)) is not None
    ]
    return [*joint, *(accuracy_table(findings) for findings in all_findings), *measures, *records]


def _files(
    out: Path,
    all_findings: Sequence[Findings],
    asked: Sequence[Question],
    tables: Sequence[Table],
    drawings: Sequence[Drawing],
    title: str,
) -> list[Path]:
    everything = [*tables, *(table for question in asked for table in question.tables)]
    written = []

    def put(folder: str, name: str, content: bytes) -> None:
        place = out / folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        written.append(place)

    for table in everything:
        put("tables", f"{table.name}.md", to_markdown(table).encode())
        put("tables", f"{table.name}.tex", to_latex(table).encode())
        put("tables", f"{table.name}.csv", to_csv(table).encode())
    for drawing in drawings:
        for kind in KINDS:
            put("figures", f"{drawing.name}.{kind}", drawing.to_bytes(kind))
    put("", "report.md", _markdown(title, all_findings, asked, tables, drawings).encode())
    return written


def _markdown(
    title: str,
    all_findings: Sequence[Findings],
    asked: Sequence[Question],
    tables: Sequence[Table],
    drawings: Sequence[Drawing],
) -> str:
    lines = [f"# {title}", "", "## Findings", ""]
    lines += [f"> {warning}\n" for warning in comparability_warnings(all_findings)]
    for question in asked:
        lines += [f"### {question.text}", ""]
        for answer in question.answers:
            lines.append(f"- **{answer.title}**: {answer.text}")
            lines += [f"    - {name}: {said}" for name, said in answer.points]
        lines += ["", *(to_markdown(table).replace("### ", "#### ", 1) for table in question.tables)]
    lines += ["## Tables", "", *(to_markdown(table) for table in tables), "## Figures", ""]
    lines += [f"![{one.title}](figures/{one.name}.svg)\n\n{one.caption}\n" for one in drawings]
    return "\n".join(lines)


def _page(
    results: Results,
    all_findings: Sequence[Findings],
    asked: Sequence[Question],
    tables: Sequence[Table],
    drawings: Sequence[Drawing],
    shown: viewer.ViewerContent,
    title: str,
    study: str,
) -> str:
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FunctionLoader(_asset), autoescape=True, undefined=StrictUndefined, trim_blocks=False
    )
    return environment.get_template("page.html").render(
        title=title,
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
            for one in drawings
        ],
        facts=_facts(all_findings),
        questions=asked,
        warnings=comparability_warnings(all_findings),
        # The page has the main columns first; files have them last, as papers do.
        tables=[with_columns_first(table, ("All", "Rel. %", "Δ best control", "p")) for table in tables],
        problems=shown.problems,
        missing=missing_results(results, [findings.comparison for findings in all_findings]),
        provenance=provenance(all_findings),
        cards=task_cards(all_findings),
        study=study,
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
