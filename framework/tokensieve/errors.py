"""Everything tokensieve raises on purpose.

```
TokensieveError
├── AlgebraError             a chain, cut or reduction was asked for something it cannot give
├── ScoreError               a strategy returned NaN, a wrong shape or a wrong order
├── BudgetError              a `keep` that is no budget (also a ValueError)
├── FormulaError             a formula that cannot be read
├── SettingError             a setting that something does not have or take (also a ValueError)
├── RecipeError              a recipe file or value that cannot be used
├── UnknownNameError         a name nobody registered
│   ├── UnknownStrategyError
│   ├── UnknownComposerError
│   ├── UnknownRecipeError
│   ├── UnknownGeometryError
│   ├── UnknownTaskError
│   └── UnknownCheckpointError
├── PluginError              a plugin that registers wrongly, or two with one name
├── MissingEvidenceError     a strategy needs what the model does not offer at that site
├── UnsupportedModelError    no adapter, or several, match a model
├── RefusedError             a model, input or call that cannot be pruned correctly
├── TaskError                the files of a task, or what is in them, cannot be used
└── StudyError               a study, or its folder of results, cannot be used
```

Messages say what was asked, what there is and what to do, in one paragraph.
"""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, Protocol


class TokensieveError(Exception):
    """The root of every error raised on purpose."""


class AlgebraError(TokensieveError):
    """A chain, a cut or a reduction was asked for something it cannot give."""


class ScoreError(TokensieveError):
    """A strategy returned NaN, a wrong shape or a wrong order."""


class BudgetError(TokensieveError, ValueError):
    """A `keep` that is no budget."""


class FormulaError(TokensieveError, ValueError):
    """A formula that cannot be read."""


class SettingError(TokensieveError, ValueError):
    """A setting that a strategy or a task does not have, or a value that it does not take."""


class RecipeError(TokensieveError):
    """A recipe that cannot be used; the message ends in `(PATH:LINE)` where there is a file."""


class UnknownNameError(TokensieveError, ValueError):
    """A name nobody registered."""


class UnknownStrategyError(UnknownNameError):
    """No strategy has this name."""


class UnknownComposerError(UnknownNameError):
    """No composer has this name."""


class UnknownRecipeError(UnknownNameError):
    """No shipped recipe has this name."""


class UnknownGeometryError(UnknownNameError):
    """No geometry of a released model has this name."""


class UnknownTaskError(UnknownNameError):
    """No task has this name."""


class UnknownCheckpointError(UnknownNameError):
    """No shipped checkpoint has this name."""


class PluginError(TokensieveError):
    """A plugin that registers wrongly, or two plugins that use one name."""


class MissingEvidenceError(TokensieveError):
    """A strategy needs evidence that is not there."""


class UnsupportedModelError(TokensieveError):
    """No adapter, or more than one, matches the model."""


class RefusedError(TokensieveError):
    """A model, an input or a call that cannot be pruned correctly, refused before any work starts."""


class TaskError(TokensieveError):
    """The files of a task, or what is in them, cannot be used; the message ends in `(PATH:LINE)` where it can."""


class StudyError(TokensieveError):
    """A study that cannot be used; the message ends in `(PATH:LINE)` where there is a file."""


class ValidationErrors(Protocol):
    """What pydantic raises: every mistake with its place."""

    def errors(self) -> list[Any]:
        """Return the mistakes."""
        ...


def first_mistake(error: ValidationErrors) -> str:
    """Return the first mistake that pydantic found: the field, what was given, and what is wrong with it."""
    detail = error.errors()[0]
    message = str(detail["msg"]).removeprefix("Value error, ")
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "value_error" or not where:
        return message
    if detail["type"] in _NOT_GIVEN:
        return f"{where}: {_NOT_GIVEN[detail['type']]}"
    given = detail.get("input")
    shown = str(given) if isinstance(given, Fraction) else repr(given)
    return f"{where} is {shown if len(shown) <= 60 else shown[:57] + '...'}: {cure_of(detail)}"


_NOT_GIVEN = {"missing": "it has no default, so give a value", "extra_forbidden": "there is no setting of this name"}
_KINDS = {
    "int": "write a whole number",
    "float": "write a number",
    "finite": "write a finite number",
    "bool": "write true or false",
    "string": "write a word",
    "list": "write a list",
    "tuple": "write a list",
    "dict": "write a mapping",
}
"""What to write, by the first word of pydantic's type of an error."""
_INSTANCES = {"model_type": "class_name", "dataclass_type": "class_name", "is_instance_of": "class"}
"""What pydantic calls a value of another class, and where it has the name of the right one."""
_GIVEN = {
    "Recipe": "a recipe: Recipe.load reads names, files and formulas",
    "MethodEntry": "a recipe: Recipe.load reads names, files and formulas",
    "Stage": "a Stage: Recipe.of makes a recipe of one stage",
    "Strategy": "a strategy with its settings, as GSP() is",
    "Expression": "a strategy or a formula of them, such as GSP() & QCSP()",
    "Keep": "a budget: Keep.of reads 64, 1/9 and 25%",
}
"""What to give where an instance of a class is wanted, if its name does not say it."""
_LIMITS = {"greater_than": ("above", "gt"), "greater_than_equal": ("at least", "ge")} | {
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}

_LENGTHS = {
    f"{kind}too_{end}": (said, key, what)
    for kind, what in (("", ("entry", "entries")), ("string_", ("sign", "signs")))
    for end, said, key in (("short", "at least", "min_length"), ("long", "at most", "max_length"))
}


def cure_of(detail: Mapping[str, Any]) -> str:
    """Return what to write in place of what pydantic found wrong, in words of this library."""
    message = str(detail["msg"]).removeprefix("Value error, ")
    kind, given = str(detail["type"]), detail.get("input")
    if kind in _NOT_GIVEN:
        return _NOT_GIVEN[kind]
    if kind in _INSTANCES and detail["ctx"][_INSTANCES[kind]] == "Fraction":
        kind = "finite"
    if kind in _INSTANCES:
        wanted = str(detail["ctx"][_INSTANCES[kind]])
        made = f"; {given.__name__} is a class: write {given.__name__}(...)" if isinstance(given, type) else ""
        return f"give {_GIVEN.get(wanted, f'a {wanted}')}{made}"
    if kind == "string_pattern_mismatch":
        return f"write a text that matches {detail['ctx']['pattern']}"
    if kind in _LENGTHS:
        said, key, (one, many) = _LENGTHS[kind]
        number = int(detail["ctx"][key])
        return f"it has {said} {number} {one if number == 1 else many}"
    if isinstance(given, float) and math.isnan(given):
        return "write a finite number"
    if kind in _LIMITS:
        said, key = _LIMITS[kind]
        return f"it is {said} {detail['ctx'][key]}"
    if kind in ("literal_error", "enum"):
        known = re.findall(r"'([^']*)'", str(detail["ctx"]["expected"]))
        near = did_you_mean(given, known) if isinstance(given, str) else ""
        return f"it is one of {', '.join(known)}.{near}" if known else message
    cure = _KINDS.get(kind.split("_")[0], message)
    if cure == "write a word" and isinstance(given, int | float) and not isinstance(given, bool):
        return f"write a text; in YAML, a number is one in quotes: '{given}'"
    quoted = isinstance(given, str) and _NUMBER.fullmatch(given) is not None
    return f"{cure}, without quotes" if quoted and "number" in cure else cure


_NUMBER = re.compile(r"[-+]?[0-9]*\.?[0-9]+")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the known name nearest to `name`, or an empty string."""
    names = list(known)
    same = [one for one in names if one.casefold() == name.casefold()]
    near = same or difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""


def listing(names: Iterable[str], limit: int = 80) -> str:
    """Return sorted `names` joined by commas, shortened past `limit`, or `none`."""
    ordered = sorted(names)
    if not ordered:
        return "none"
    more = f" and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return ", ".join(ordered[:limit]) + more


def text_of(error: BaseException) -> str:
    """Return the text of an error; a stranger's error may raise another one instead."""
    try:
        return str(error)
    # Whatever the other one is, also SystemExit: the first one is to be told.
    except BaseException as other:
        return f"its text cannot be read, because of a {type(other).__name__}"


def brief(thing: object) -> str:
    """Return what stands for a thing in a message: how it is written, or its class where that is long."""
    text = f"the class {thing.__name__}" if isinstance(thing, type) else repr(thing)
    return text if len(text) <= 60 and "\n" not in text and " object at 0x" not in text else f"a {type(thing).__name__}"


def short_message(error: BaseException) -> str:
    """Return the message of another library's error in one line of at most 300 characters."""
    text = " ".join(text_of(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."


def plain(text: str) -> str:
    """Return text that is safe to print: control characters become a replacement character."""
    return "".join(
        sign if sign in "\n\t" or unicodedata.category(sign) not in ("Cc", "Cs") else "\ufffd" for sign in text
    )
