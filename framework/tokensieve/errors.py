"""Everything tokensieve raises on purpose.

```
TokensieveError
├── AlgebraError             a chain, cut or reduction was asked for something it cannot give
├── ScoreError               a strategy returned NaN, a wrong shape or a wrong order
├── BudgetError              a `keep` that is no budget (also a ValueError)
├── FormulaError             a formula that cannot be read
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
import unicodedata
from collections.abc import Iterable
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
    given = detail.get("input")
    shown = str(given) if isinstance(given, Fraction) else repr(given)
    return f"{where} is {shown if len(shown) <= 60 else shown[:57] + '...'}: {message}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the known name nearest to `name`, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""


def listing(names: Iterable[str], limit: int = 40) -> str:
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


def short_message(error: BaseException) -> str:
    """Return the message of another library's error in one line of at most 300 characters."""
    text = " ".join(text_of(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."


def plain(text: str) -> str:
    """Return text that is safe to print: control characters become a replacement character."""
    return "".join(
        sign if sign in "\n\t" or unicodedata.category(sign) not in ("Cc", "Cs") else "\ufffd" for sign in text
    )
