"""The tasks of a report, built again for their measures, questions and images."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tokensieve.errors import SettingError, TokensieveError
from tokensieve.plugins.registry import Registry
from tokensieve.recipes import yaml_lines
from tokensieve.study.analysis.attempt import reason_of
from tokensieve.study.analysis.comparison import Comparison
from tokensieve.study.spec.entries import TaskEntry
from tokensieve.tasks.base import Task

CHANGED = "the task is not what it was at the run."


def rebuild_tasks(
    comparisons: Sequence[Comparison], registry: Registry, studies: Sequence[str] = ()
) -> tuple[dict[str, Task], list[str]]:
    """Return the tasks of comparisons: from the entries of the studies, or from their cards.

    Nothing is read, so a task may be asked for what needs no files, such as its measures. Its files may be others than
    at the run, or gone: see `unchanged`.

    Args:
        comparisons: the comparisons.
        registry: where tasks are looked up.
        studies: the studies as YAML. Their entries have the paths of files; cards do not.

    Returns:
        The tasks by the hash of their cards, and why others could not be built.

    Raises:
        RecipeError: if a study is not valid YAML.
    """
    asked = [_entries_by_name(study) for study in studies]
    found: dict[str, Task] = {}
    problems: list[str] = []
    for comparison in _by_card(comparisons):
        said, card = f"The pictures and measures of {comparison.task} are not shown: ", comparison.card
        named = [entries[comparison.task] for entries in asked if comparison.task in entries]
        several = any(entry != named[0] for entry in named)
        why = []
        # Several studies may have a task of this name; of one, nothing but its own entry is tried.
        entries: list[TaskEntry | None] = [*named] or [None]
        for entry in entries:
            try:
                task = (_entry_from_card(comparison, registry) if entry is None else entry).build(registry)
            # The code of a task can raise anything.
            except Exception as error:
                why.append(f"{said}{_told(error)}")
                continue
            if (task.name, task.version, task.metric) != (card.get("task"), card.get("version"), card.get("metric")):
                why.append(f"{said}{CHANGED}")
                continue
            # Of entries that both could be it, the one with this card is.
            if several and _card_text(task) != _text(card):
                why.append(f"{said}{CHANGED}")
                continue
            found[comparison.card_hash] = task
            break
        else:
            problems += dict.fromkeys(why)
    return found, problems


def unchanged_tasks(comparisons: Sequence[Comparison], tasks: Mapping[str, Task]) -> tuple[dict[str, Task], list[str]]:
    """Return the tasks whose cards are the same as at the run, so that their questions and images are the same.

    Args:
        comparisons: the comparisons.
        tasks: the tasks by the hash of their cards.

    Returns:
        These tasks, and why others are left out.
    """
    found: dict[str, Task] = {}
    problems = []
    for comparison in _by_card(comparisons):
        task = tasks.get(comparison.card_hash)
        if task is None:
            continue
        try:
            now = task.card()
        # The code of a task can raise anything.
        except Exception as error:
            problems.append(f"The pictures of {comparison.task} are not shown: {_told(error)}")
            continue
        if _text(now) == _text(comparison.card):
            found[comparison.card_hash] = task
        else:
            problems.append(f"The pictures of {comparison.task} are not shown: {CHANGED}")
    return found, problems


def _card_text(task: Task) -> str | None:
    """Return the card of a task as text; none if its code fails, as where its files are gone."""
    try:
        return _text(task.card())
    # The code of a task can raise anything.
    except Exception:
        return None


def _told(error: Exception) -> str:
    """Return an error's text, with its kind if its text may not stand alone."""
    return str(error) if isinstance(error, TokensieveError) else reason_of(error)


def _by_card(comparisons: Sequence[Comparison]) -> list[Comparison]:
    return list({one.card_hash: one for one in comparisons}.values())


def _entries_by_name(study: str) -> dict[str, TaskEntry]:
    """Return the entries of a study's tasks by name."""
    data = yaml_lines.read(study, "study.yaml").data if study else None
    entries = data.get("tasks") if isinstance(data, dict) else None
    # In a stored study, all tasks are mappings.
    found = {}
    for one in entries if isinstance(entries, list) else ():
        if isinstance(one, dict) and isinstance(one.get("name"), str) and isinstance(one.get("use"), str):
            # Without a valid entry, a task is built from its card.
            with contextlib.suppress(SettingError):
                found[one["name"]] = TaskEntry.of(one)
    return found


def _entry_from_card(comparison: Comparison, registry: Registry) -> TaskEntry:
    """Return an entry with the settings on the card of a task."""
    card = comparison.card
    kind = registry.task(str(card.get("task")))
    return TaskEntry(
        name=comparison.task, use=kind.name, settings={name: card[name] for name in kind.model_fields if name in card}
    )


def _text(card: Mapping[str, Any]) -> str:
    # The card has the number of samples, or the part of the pictures, if only these were asked.
    return json.dumps({name: card[name] for name in card if name not in ("samples", "part")}, sort_keys=True)
