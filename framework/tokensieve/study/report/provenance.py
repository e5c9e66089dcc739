"""The origin of the numbers of a report, and missing results."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokensieve.study.analysis.comparison import Comparison
from tokensieve.study.analysis.completeness import Completeness
from tokensieve.study.analysis.findings import Findings
from tokensieve.study.rows import Cell


@dataclass(frozen=True)
class TextTable:
    """A table of texts.

    Attributes:
        title: the text above the table.
        columns: the headings.
        rows: its rows.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class MissingResult:
    """A missing result.

    Attributes:
        model: the name of the model.
        what: the method or control.
        keeps: the budgets.
        reason: why: it failed, did not run, does not apply, or has nothing to be compared with.
    """

    model: str
    what: str
    keeps: str
    reason: str


def missing_results(
    plan: Mapping[str, Any], completeness: Completeness, comparisons: Sequence[Comparison]
) -> list[MissingResult]:
    """Return planned cells without a result, controls that do not apply, and cells that are not compared.

    Equal reasons are joined.
    """
    found: dict[tuple[str, str, str], list[str]] = {}
    for cell in completeness.unfinished:
        found.setdefault((cell.model, cell.what, cell.reason), []).append(cell.keep or "all tokens")
    for skipped in plan.get("skipped", ()):
        role = str(skipped.get("role", "?"))
        what = role if skipped.get("of") is None else f"{role} {skipped['of']}"
        reason = f"n/a: {str(skipped.get('reason', '')).removeprefix('n/a: ')}"
        found.setdefault((str(skipped.get("model", "?")), what, reason), []).append(str(skipped.get("keep") or "all"))
    listed = [
        MissingResult(model, what, ", ".join(dict.fromkeys(keeps)), reason)
        for (model, what, reason), keeps in found.items()
    ]
    for comparison in comparisons:
        left = (*comparison.excluded, *comparison.unmatched)
        listed += [MissingResult(comparison.model, "not compared", "", reason) for reason in left]
    return listed


def provenance(all_findings: Sequence[Findings]) -> list[TextTable]:
    """Return tables of models, tasks, recipes, versions and notes, with hashes."""
    cells = [cell.cell for findings in all_findings for arm in findings.comparison.arms for cell in arm.cells]
    models = _unique((cell.model, cell.model_hash, cell.adapter) for cell in cells)
    tasks = _unique(
        (one.task, one.card_hash, str(one.card.get("metric", "")), f"{len(one.samples)}", f"{len(set(one.images))}")
        for one in (findings.comparison for findings in all_findings)
    )
    methods: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        if cell.recipe is not None and cell.role == "method":
            hashes = methods.setdefault((cell.method, _stages(cell.recipe)), [])
            hashes.append(cell.recipe_hash or "")
    names = sorted({name for cell in cells for name in cell.versions})
    versions = _unique(tuple(cell.versions.get(name, "") for name in names) for cell in cells)
    notes = _notes(cells)
    listings = [
        TextTable("Models", ("Name", "Hash of config and weights", "Adapter"), models),
        TextTable("Tasks", ("Name", "Card", "Metric", "Questions", "Pictures"), tasks),
        TextTable(
            "Recipes",
            ("Name", "Stages", "Hashes, one a budget"),
            tuple((name, stages, ", ".join(dict.fromkeys(hashes))) for (name, stages), hashes in methods.items()),
        ),
        TextTable("Versions", tuple(names), versions),
        TextTable("Notes of the ledger", ("Note", "Methods"), notes),
    ]
    return [listing for listing in listings if listing.rows]


def task_cards(all_findings: Sequence[Findings]) -> list[tuple[str, str]]:
    """Return every card once: the name of the task with the hash, and the card as JSON."""
    seen = {one.card_hash: one for one in (findings.comparison for findings in all_findings)}
    return [(f"{one.task} ({name})", json.dumps(one.card, indent=1, ensure_ascii=False)) for name, one in seen.items()]


def comparability_warnings(all_findings: Sequence[Findings]) -> list[str]:
    """Return warnings about numbers that are hard to compare."""
    messages = []
    by_task: dict[str, set[str]] = {}
    for findings in all_findings:
        comparison = findings.comparison
        by_task.setdefault(comparison.task, set()).add(comparison.card_hash)
        # The hash of the code depends on the plugins of a method, so only versions of libraries are compared.
        libraries = {
            str(sorted((name, value) for name, value in cell.cell.versions.items() if name != "code"))
            for arm in comparison.arms
            for cell in arm.cells
        }
        if len(libraries) > 1:
            messages.append(f"{comparison.title}: cells were made by different versions of libraries; see Provenance.")
        if comparison.unpruned is None:
            messages.append(f"{comparison.title}: the unpruned model was not measured, so nothing is relative to it.")
    for task, hashes in by_task.items():
        if len(hashes) > 1:
            messages.append(
                f"{task} was run under {len(hashes)} cards ({', '.join(sorted(hashes))}): their numbers are in no "
                "table together."
            )
    return messages


def _notes(cells: Sequence[Cell]) -> tuple[tuple[str, ...], ...]:
    """Return notes with the methods that have them; notes that differ only in numbers are joined."""
    found: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for cell in cells:
        for note in cell.notes:
            notes, methods = found.setdefault(re.sub(r"\d+", "#", note), ({}, {}))
            notes[note] = None
            methods[cell.method] = None
    return tuple(
        (next(iter(notes)) + (f" (and {len(notes) - 1} alike)" if len(notes) > 1 else ""), ", ".join(methods))
        for notes, methods in found.values()
    )


def _stages(recipe: dict[str, Any]) -> str:
    named = [f"{name}: {_strategy(settings)}" for name, settings in recipe.get("strategies", {}).items()]
    return _sites(recipe) + (f" ({', '.join(named)})" if named else "")


def _strategy(settings: Any) -> str:
    if not isinstance(settings, dict):
        return str(settings)
    more = [f"{name} {value}" for name, value in settings.items() if name != "use"]
    return " ".join([str(settings.get("use", "?")), *more])


def _sites(recipe: dict[str, Any]) -> str:
    return "; ".join(f"{stage.get('select', '?')} at {stage.get('at', '?')}" for stage in recipe.get("stages", ()))


def _unique(lines: Iterable[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    return tuple(dict.fromkeys(lines))
