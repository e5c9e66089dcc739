"""The page of a report: one file that works offline."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata, resources
from typing import Any

from tokensieve.study.analysis.comparison import BOUND_ROLES
from tokensieve.study.analysis.findings import Findings
from tokensieve.study.report.figures.style import Drawing
from tokensieve.study.report.parts import ReportParts
from tokensieve.study.report.provenance import MissingResult, comparability_warnings, provenance, task_cards
from tokensieve.study.report.tables.values import Delta, Share, TableCell, number_and_interval, with_columns_first
from tokensieve.study.report.text import without_folders
from tokensieve.study.report.viewer import ViewerContent, script_json

FOLD = 5
"""The longest list that is shown whole; of a longer one, all is folded."""


def make_page(parts: ReportParts, shown: ViewerContent, missing: Sequence[MissingResult]) -> str:
    """Return the page as HTML.

    Args:
        parts: what it is made of.
        shown: the content of the viewer.
        missing: the missing results.
    """
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
    figures = [_figure(one) for one in parts.drawings]
    return environment.get_template(
        "page.html"
    ).render(
        title=parts.title,
        # A banner above it says what is incomplete.
        headline=parts.headline.removesuffix(parts.completeness.note).strip(),
        incomplete=parts.completeness.note,
        complete=parts.completeness.complete,
        undrawn=parts.undrawn,
        # Safe: files of this package, figures by matplotlib, and JSON without tags.
        css=Markup(_asset("page.css")),  # noqa: S704
        js=Markup(_asset("page.js")),  # noqa: S704
        viewer=Markup(shown.to_json()) if any(view["methods"] for view in shown.views) else "",  # noqa: S704
        texts=Markup(script_json(parts.texts)),  # noqa: S704
        first=figures[:1],
        drawings=figures[1:],
        facts=_facts(parts.findings),
        questions=parts.asked,
        warnings=comparability_warnings(parts.findings),
        # The page has the main columns first; files have them last, as papers do.
        tables=[with_columns_first(table, ("All", "Rel. %", "Δ best control", "p")) for table in parts.tables],
        problems=shown.problems,
        missing=missing,
        provenance=provenance(parts.findings),
        cards=task_cards(parts.findings),
        studies=parts.studies,
        version=metadata.version("tokensieve"),
        standing=_row_class,
        cell_of=_cell,
        fold=FOLD,
    )


def _row_class(role: str) -> str:
    """Return the class of a row of a table."""
    if role in ("method", "published"):
        return role
    return "bound" if role in BOUND_ROLES else "control"


def _figure(drawing: Drawing) -> dict[str, Any]:
    from markupsafe import Markup

    return {
        "name": drawing.name,
        "title": drawing.title,
        "caption": drawing.caption,
        "wide": drawing.wide,
        "switches": drawing.switches,
        "svg": Markup(drawing.accessible),  # noqa: S704 - by matplotlib
    }


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

    number, interval = number_and_interval(cell)
    if isinstance(cell, Share):
        value = Markup("<strong>{}</strong>").format(number) if cell.best else number
        return Markup("<td>{} <small>{}</small></td>").format(value, interval)
    if isinstance(cell, Delta):
        return Markup('<td class="{}">{} <small>{}</small></td>').format(cell.difference.verdict, number, interval)
    return Markup("<td>{}</td>").format(number)
