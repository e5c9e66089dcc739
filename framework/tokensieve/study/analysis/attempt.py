"""Computing one part of a report, so that a part that cannot be computed costs itself only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def attempt(make: Callable[[], Value], default: Value, name: str, problems: dict[str, str]) -> Value:
    """Return what a function makes. If it raises, return `default`, and add the reason to `problems`.

    Args:
        make: the function.
        default: the value if the function raises.
        name: the name of the part in `problems`.
        problems: why parts could not be made, by name. Whoever shows the part has to say it.
    """
    try:
        return make()
    # Numbers of any task and code of any plugin can make a statistic or a figure raise anything.
    except Exception as error:
        problems[name] = reason_of(error)
        return default


def reason_of(error: Exception) -> str:
    """Return an error as one line: its kind and its text."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
