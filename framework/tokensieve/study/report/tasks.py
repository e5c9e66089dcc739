"""The tasks that a report is about, made again: for their measures, their questions and their pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tokensieve.errors import TokensieveError
from tokensieve.plugins.registry import Registry
from tokensieve.recipes import yaml_lines
from tokensieve.study.analysis.comparison import Comparison
from tokensieve.study.spec.entries import TaskEntry
from tokensieve.tasks.base import Task

CHANGED = "the task is not what it was at the run."


def rebuild_tasks(
    comparisons: Sequence[Comparison], registry: Registry, study: str = ""
) -> tuple[dict[str, Task], list[str]]:
    """Make the tasks of comparisons again: as the study asks for them, or from their cards where it does not.

    Nothing is read, so a task may be asked for what needs no files, such as its measures. Its files may be others than
    at the run, or gone: see `unchanged`.

    Args:
        comparisons: whose.
        registry: where tasks are looked up.
        study: the study as YAML. It says where files are; a card does not.

    Returns:
        Tasks by the card's hash, and why some could not be made.

    Raises:
        RecipeError: if the study is no YAML.
    """
    asked = _asked(study)
    found: dict[str, Task] = {}
    problems = []
    for comparison in _by_card(comparisons):
        said, card = f"The pictures and measures of {comparison.task} are not shown: ", comparison.card
        try:
            task = (asked.get(comparison.task) or _on_card(comparison, registry)).build(registry)
        except (TokensieveError, ValueError) as error:
            problems.append(f"{said}{error}")
            continue
        if (task.name, task.version, task.metric) == (card.get("task"), card.get("version"), card.get("metric")):
            found[comparison.card_hash] = task
        else:
            problems.append(f"{said}{CHANGED}")
    return found, problems


def unchanged_tasks(comparisons: Sequence[Comparison], tasks: Mapping[str, Task]) -> tuple[dict[str, Task], list[str]]:
    """Return the tasks whose cards are what they were at the run: their questions and pictures are the same.

    Args:
        comparisons: what was run.
        tasks: by the card's hash.

    Returns:
        Such tasks, and why others are not among them.
    """
    found: dict[str, Task] = {}
    problems = []
    for comparison in _by_card(comparisons):
        task = tasks.get(comparison.card_hash)
        if task is None:
            continue
        try:
            now = task.card()
        except (TokensieveError, ValueError) as error:
            problems.append(f"The pictures of {comparison.task} are not shown: {error}")
            continue
        if _text(now) == _text(comparison.card):
            found[comparison.card_hash] = task
        else:
            problems.append(f"The pictures of {comparison.task} are not shown: {CHANGED}")
    return found, problems


def _by_card(comparisons: Sequence[Comparison]) -> list[Comparison]:
    return list({one.card_hash: one for one in comparisons}.values())


def _asked(study: str) -> dict[str, TaskEntry]:
    """Return a study's tasks by what the study calls them."""
    data = yaml_lines.read(study, "study.yaml").data if study else None
    entries = data.get("tasks") if isinstance(data, dict) else None
    # A study is written down with all of them as mappings.
    named = [one for one in entries or () if isinstance(one, dict) and {"name", "use"} <= set(one)]
    return {one["name"]: TaskEntry.of(one) for one in named}


def _on_card(comparison: Comparison, registry: Registry) -> TaskEntry:
    """Return a task with the settings that stand on its card."""
    card = comparison.card
    kind = registry.task(str(card.get("task")))
    return TaskEntry(
        name=comparison.task, use=kind.name, settings={name: card[name] for name in kind.model_fields if name in card}
    )


def _text(card: Mapping[str, Any]) -> str:
    # Where a part of a task's samples was asked, the card says how many.
    return json.dumps({name: value for name, value in card.items() if name != "samples"}, sort_keys=True)
