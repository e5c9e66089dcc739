"""Changes to what a YAML file says, on the command line: `--set PATH=VALUE`."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from tokensieve.errors import RecipeError, did_you_mean, listing
from tokensieve.plugins.registry import Registry
from tokensieve.recipes import yaml_lines
from tokensieve.stage import Stage

STUDY_EXAMPLE = "keep=64,128"
RECIPE_EXAMPLE = "gsp.quantile=0.75"

Steps = list[str]


def apply_override(
    data: dict[Any, Any],
    setting: str,
    example: str = STUDY_EXAMPLE,
    meant: Callable[[Steps, str], Steps] = lambda steps, setting: steps,
) -> yaml_lines.Path:
    """Change data of a YAML file in place by a setting `PATH=VALUE`.

    A path is keys joined by dots. An entry of a list is given by its name or its number: `limit=100`, `keep=64,128`,
    `tasks.world.questions=200`, `models.0.device=cpu`. The value is YAML; with commas and without brackets it is a
    list.

    Args:
        data: the content of the file.
        setting: the setting.
        example: another setting, for messages.
        meant: returns the path for one that may be shortened.

    Returns:
        The path of what was changed, with entries of lists by their number.

    Raises:
        RecipeError: if the setting is not `PATH=VALUE`, or the data have no such path.
    """
    path, equals, text = setting.partition("=")
    steps = path.strip().split(".")
    if not equals or not all(steps):
        raise RecipeError(f"'{setting}' is no setting; write PATH=VALUE, such as {example}")
    if not text.strip():
        raise RecipeError(f"--set {setting}: the value is missing; write PATH=VALUE, such as {example}")
    steps = meant(steps, setting)
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
            raise RecipeError(f"--set {setting}: there is nothing inside {'.'.join(steps[:depth])}")
    value = _parse_value(text, setting)
    if isinstance(here, dict):
        here[steps[-1]] = value
        return (*at, steps[-1])
    if isinstance(here, list) and steps[-1].isdecimal() and int(steps[-1]) < len(here):
        here[int(steps[-1])] = value
        return (*at, int(steps[-1]))
    raise RecipeError(f"--set {setting}: {'.'.join(steps[:-1])} has no '{steps[-1]}'")


def changed_recipe(
    document: yaml_lines.Document, settings: Sequence[str], registry: Registry, keys: Collection[str]
) -> yaml_lines.Document:
    """Return a recipe's document with settings, whose places are then those of errors; its data change in place.

    A path may begin with an operand: `graph.quantile=0.5` is `strategies.graph.quantile=0.5`. A strategy that a formula
    names by itself gets an entry under `strategies`.

    Args:
        document: the recipe.
        settings: such as `graph.quantile=0.5` and `stages.0.rest=merge`.
        registry: where strategies are looked up.
        keys: what a recipe has.

    Raises:
        RecipeError: if a setting leads nowhere.
    """
    data = document.data
    if not isinstance(data, dict):
        return document

    def meant(steps: Steps, setting: str) -> Steps:
        return _operand_path(data, steps, setting, registry, keys)

    changed = {apply_override(data, one, RECIPE_EXAMPLE, meant): f"--set {one}" for one in settings}
    return replace(document, changed=changed)


def _operand_path(data: dict[Any, Any], steps: Steps, setting: str, registry: Registry, keys: Collection[str]) -> Steps:
    """Return the path in a recipe; that of an operand's setting is below `strategies`, where the operand then is."""
    named = steps[1:] if steps[0] == "strategies" else steps
    if len(named) == 1 and steps[0] not in keys:
        raise RecipeError(f"--set {setting}: a recipe has no '{steps[0]}'; {_cure(steps[0], keys)}")
    operands = data.get("strategies") or {}
    if len(named) < 2 or (named is steps and steps[0] in keys) or not isinstance(operands, dict):
        return steps
    name, words = named[0], _words(data)
    used = {word: _strategy(operands.get(word, word)) for word in (*operands, *words)}
    if name in registry.composers:
        raise RecipeError(
            f"--set {setting}: '{name}' is a composer, whose settings stand in the formula; change that, as in "
            "--set stages.0.select='quota(gsp, norm, share=3/4)'"
        )
    if name not in used:
        # Of the words, some are composers, or settings and values of these.
        known = {word: strategy for word, strategy in used.items() if word in operands or word in registry.strategies}
        said = listing(word if word == strategy else f"{word} ({strategy})" for word, strategy in known.items())
        alias = next((word for word, strategy in known.items() if strategy == name), None)
        hint = did_you_mean(name, known) if alias is None else f" Did you mean '{alias}'?"
        raise RecipeError(f"--set {setting}: the recipe has no operand '{name}'; it has {said}.{hint}")
    if not isinstance(operands.get(name), dict):
        operands[name] = {"use": used[name]}
    data["strategies"] = operands
    return ["strategies", *named]


def _cure(key: str, keys: Collection[str]) -> str:
    if key in ("r", *Stage.model_fields):
        return f"it is a key of a stage: stages.0.{key}=VALUE" + (", or --keep VALUE" if key == "keep" else "")
    return (
        f"write OPERAND.NAME=VALUE for a setting of a strategy, such as {RECIPE_EXAMPLE}, or a key of a recipe: "
        f"{', '.join(keys)}.{did_you_mean(key, keys)}"
    )


def _strategy(entry: object) -> str:
    return str(entry.get("use")) if isinstance(entry, dict) else str(entry)


def _words(data: dict[Any, Any]) -> list[str]:
    """Return the words of all formulas: operands, composers, and names of settings and values."""
    stages = data.get("stages")
    entries = [stage for stage in stages if isinstance(stage, dict)] if isinstance(stages, list) else []
    formulas = [
        str(stage[key]) for stage in entries for key in ("select", "by", "demand") if stage.get(key) is not None
    ]
    return [word for formula in formulas for word in re.findall(r"[^\W\d]\w*", formula)]


def _find_entry(entries: list[Any], step: str, kind: str, setting: str) -> int:
    """Return the number of a list's entry with a name or a number. An entry that is a bare name becomes a mapping."""
    bare = "path" if kind == "models" else "use"
    for place, entry in enumerate(entries):
        names = [entry.get(key) for key in ("name", "use", "path")] if isinstance(entry, dict) else [entry]
        if step in names or step == str(place):
            if not isinstance(entry, (dict, list)):
                entries[place] = {bare: entry}
            return place
    known = [_name_of(entry, place, bare) for place, entry in enumerate(entries)]
    raise RecipeError(f"--set {setting}: {kind} has no entry '{step}'; it has {listing(known)}")


def _name_of(entry: Any, place: int, bare: str) -> str:
    """Return what an entry of a list is called; a stage has a number and a site."""
    if not isinstance(entry, dict):
        return str(entry)
    at = f" ({entry['at']})" if "at" in entry else ""
    return str(entry.get("name") or entry.get(bare) or f"{place}{at}")


def _parse_value(text: str, setting: str) -> Any:
    # A formula has commas between its operands.
    single = text.lstrip().startswith(("[", "{")) or "(" in text
    return yaml_lines.read(f"[{text}]" if "," in text and not single else text, f"--set {setting}").data
