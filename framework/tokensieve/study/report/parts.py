"""What the page and the files of a report are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from tokensieve.study.analysis.completeness import Completeness
from tokensieve.study.analysis.findings import Findings
from tokensieve.study.report.answers import Question
from tokensieve.study.report.figures.style import Drawing
from tokensieve.study.report.tables.formats import to_csv, to_markdown
from tokensieve.study.report.tables.latex import LatexStyle, to_latex
from tokensieve.study.report.tables.values import Table
from tokensieve.study.report.text import without_folders


@dataclass(frozen=True)
class Section:
    """What stands before everything else in a report.

    Attributes:
        headline: the sentence in front of the report's own; may be empty.
        question: the question that is answered first.
        drawings: the figures that come first.
    """

    headline: str
    question: Question
    drawings: tuple[Drawing, ...]


@dataclass(frozen=True)
class ReportParts:
    """What the page and the files of a report are made of.

    Attributes:
        title: the title of the report.
        headline: the sentence that it starts with.
        studies: the studies as YAML.
        findings: the findings, one for each comparison.
        asked: the questions with their answers.
        tables: the tables that belong to no question.
        drawings: the figures; the first one is below the headline.
        undrawn: why other figures could not be drawn, by name.
        completeness: which planned cells have no result.
        latex: how LaTeX tables are written.
        references: the BibTeX entries of their citation keys; empty if there are none.
    """

    title: str
    headline: str
    studies: Sequence[str]
    findings: tuple[Findings, ...]
    asked: Sequence[Question]
    tables: Sequence[Table]
    drawings: Sequence[Drawing]
    undrawn: Mapping[str, str]
    completeness: Completeness
    latex: LatexStyle
    references: str

    @property
    def all_tables(self) -> list[Table]:
        """Return all tables, those of questions last."""
        return [*self.tables, *(table for question in self.asked for table in question.tables)]

    @cached_property
    def texts(self) -> dict[str, dict[str, str]]:
        """Return every table as text without paths of this machine, by its name and the kind of text."""
        return {
            table.name: {
                "LaTeX": without_folders(to_latex(table, self.latex)),
                "Markdown": without_folders(to_markdown(table)),
                "CSV": without_folders(to_csv(table)),
            }
            for table in self.all_tables
        }
