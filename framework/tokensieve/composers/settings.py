"""Settings of composers: how a formula's values become a field's, and how a field's value is written in a formula."""

from __future__ import annotations

import keyword
import math
from collections.abc import Iterator
from enum import Enum
from fractions import Fraction
from typing import Any, get_args, get_origin

from tokensieve.algebra.budget import simplest


def types_in(annotation: Any) -> Iterator[Any]:
    """Return every type that an annotation names, itself and inside brackets."""
    yield get_origin(annotation) or annotation
    for part in get_args(annotation):
        yield from types_in(part)


def fit(value: object, annotation: Any) -> object:
    """Return a value of a formula as the annotated field takes it.

    A formula writes decimals and quotients, which are exact, lists, and words. So a fraction becomes a float where the
    field is no fraction, a number the simplest fraction equal to it where it is one, a list a tuple, and a word the
    member of an enumeration; all else stays as it is.
    """
    kinds = set(types_in(annotation))
    if isinstance(value, (list, tuple)):
        return tuple(fit(item, annotation) for item in value)
    if isinstance(value, Fraction) and Fraction not in kinds and float in kinds:
        return float(value)
    if Fraction in kinds and type(value) not in kinds:
        if isinstance(value, float) and math.isfinite(value):
            return simplest(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return Fraction(value)
    if isinstance(value, str) and str not in kinds:
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, Enum) and value in {member.value for member in kind}:
                return kind(value)
    return value


def write_value(value: object) -> str:
    """Return a setting as a formula writes it."""
    if isinstance(value, tuple):
        return f"[{', '.join(write_value(item) for item in value)}]"
    if isinstance(value, Enum):
        return write_value(value.value)
    if isinstance(value, float):
        # Formulas have no exponents; a quotient is exact.
        return str(simplest(value))
    if isinstance(value, str) and (not value.isidentifier() or keyword.iskeyword(value)):
        return repr(value)
    return str(value)
