"""Changes to a study on the command line: `--set PATH=VALUE`."""

from __future__ import annotations

from typing import Any

from tokensieve.errors import (
    RecipeError,
    StudyError,
    listing,
)
from tokensieve.recipes import yaml_lines


def apply_override(data: dict[Any, Any], setting: str) -> yaml_lines.Path:
    """Change the data of a study in place by a setting `PATH=VALUE`.

    A path is keys joined by dots. An entry of a list is given by its name or its number: `limit=100`, `keep=64,128`,
    `tasks.world.questions=200`, `models.0.device=cpu`. The value is YAML; with commas and without brackets it is a
    list.

    Returns:
        The path of what was changed, with entries of lists by their number.

    Raises:
        StudyError: if the setting is not `PATH=VALUE`, or the study has no such path.
    """
    path, equals, text = setting.partition("=")
    steps = path.strip().split(".")
    if not equals or not all(steps):
        raise StudyError(f"'{setting}' is no setting; write PATH=VALUE, such as keep=64,128")
    here: Any = data
    at: list[str | int] = []
    for depth, step in enumerate(steps[:-1]):
        if isinstance(here, list):
            number = _find_entry(here, step, steps[0], setting)
            here = here[number]
            at.append(number)
        elif isinstance(here, dict):
            here = here.setdefault(step, {})
            at.append(step)
        else:
            raise StudyError(f"--set {setting}: there is nothing inside {'.'.join(steps[:depth])}")
    value = _parse_value(text, setting)
    if isinstance(here, dict):
        here[steps[-1]] = value
        return (*at, steps[-1])
    if isinstance(here, list) and steps[-1].isdecimal() and int(steps[-1]) < len(here):
        here[int(steps[-1])] = value
        return (*at, int(steps[-1]))
    raise StudyError(f"--set {setting}: {'.'.join(steps[:-1])} has no '{steps[-1]}'")


def _find_entry(entries: list[Any], step: str, kind: str, setting: str) -> int:
    """Return the number of a list's entry with a name or a number. An entry that is a bare name becomes a mapping."""
    bare = "path" if kind == "models" else "use"
    for place, entry in enumerate(entries):
        names = [entry.get(key) for key in ("name", "use", "path")] if isinstance(entry, dict) else [entry]
        if step in names or step == str(place):
            if not isinstance(entry, (dict, list)):
                entries[place] = {bare: entry}
            return place
    known = [str(entry.get("name") or entry.get(bare)) if isinstance(entry, dict) else str(entry) for entry in entries]
    raise StudyError(f"--set {setting}: {kind} has no entry '{step}'; it has {listing(known)}")


def _parse_value(text: str, setting: str) -> Any:
    source = f"--set {setting}"
    try:
        bracketed = text.lstrip().startswith(("[", "{"))
        return yaml_lines.read(f"[{text}]" if "," in text and not bracketed else text, source).data
    except RecipeError as error:
        raise StudyError(str(error)) from None
