"""The tables and figures of a report as files, and the report as Markdown."""

from __future__ import annotations

from pathlib import Path

from tokensieve.study.analysis.measured import encodable
from tokensieve.study.report.parts import ReportParts
from tokensieve.study.report.provenance import comparability_warnings
from tokensieve.study.report.tables.formats import escape_markdown, to_markdown
from tokensieve.study.report.text import without_folders

KINDS = ("svg", "png", "pdf")
"""The formats of figures."""
ENDINGS = {"LaTeX": "tex", "Markdown": "md", "CSV": "csv"}
"""The endings of the files of tables, by the kind of text."""


def write_files(out: Path, parts: ReportParts) -> list[Path]:
    """Write tables, figures and `report.md` into a folder, and return their paths.

    Raises:
        OSError: if a file cannot be written.
    """
    written = []

    def put_text(folder: str, name: str, text: str) -> None:
        put(folder, name, encodable(without_folders(text)).encode())

    def put(folder: str, name: str, content: bytes) -> None:
        place = out / folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        written.append(place)

    for name, texts in parts.texts.items():
        for kind, text in texts.items():
            put_text("tables", f"{name}.{ENDINGS[kind]}", text)
    if parts.references:
        put_text("tables", "references.bib", parts.references)
    for drawing in parts.drawings:
        for kind in KINDS:
            put("figures", f"{drawing.name}.{kind}", drawing.to_bytes(kind))
    put_text("", "report.md", _markdown(parts))
    return written


def _markdown(parts: ReportParts) -> str:
    escaped = escape_markdown
    lines = [f"# {escaped(parts.title)}", ""]
    lines += [f"**{escaped(parts.completeness.note)}**", ""] if parts.completeness.note else []
    lines += [escaped(parts.headline), "", "## Findings", ""]
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
