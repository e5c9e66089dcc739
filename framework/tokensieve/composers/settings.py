"""Settings of composers: how a formula's values become a field's, and how a field's value is written in a formula."""

from __future__ import annotations

import keyword
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NoReturn, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from tokensieve.algebra.budget import Keep, simplest
from tokensieve.errors import (
    BudgetError,
    FormulaError,
    PluginError,
    RecipeError,
    SettingError,
    TokensieveError,
    did_you_mean,
    first_mistake,
    listing,
)

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)

CLASS_ATTRIBUTES = (frozenset, set)
"""Types of attributes without annotation that are no fields, so that `needs = frozenset({...})` can be written."""


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


def fit_all(data: object, fields: Mapping[str, FieldInfo]) -> object:
    """Return what a model is made of, with every value as its field takes it."""
    if not isinstance(data, dict):
        return data
    return data | {name: fit(data[name], field.annotation) for name, field in fields.items() if name in data}


def write_size(m: Keep) -> str:
    """Return a size as a formula writes it, without a percent sign: a formula is Python, where that is an operator."""
    size = str(m.written())
    if m.fraction is not None and size.endswith("%"):
        return f"{m.fraction.numerator}/{m.fraction.denominator}"
    return size


def refuse_post_init(cls: type) -> None:
    """Refuse a class whose `__post_init__` would never be called.

    Raises:
        PluginError: naming the class.
    """
    if "__post_init__" in vars(cls):
        raise PluginError(
            f"the composer {cls.__name__} checks its settings in __post_init__, which is not called: composers are "
            "pydantic models like strategies. Use field_validator or model_validator, and raise ValueError"
        )


def check_arguments(
    name: str, known: Sequence[str], settings: Iterable[str], operands: Sequence[object], kind: type
) -> None:
    """Refuse settings that a composer does not have, and operands that are no expressions.

    Raises:
        FormulaError: naming the composer.
    """
    for setting in settings:
        if setting not in known:
            there, near = ", ".join(known) or "none", did_you_mean(setting, known)
            raise FormulaError(f"{name} has no parameter '{setting}'; it has {there}{near and f'.{near}'}")
    for operand in operands:
        if not isinstance(operand, kind):
            cure = f"; write {operand.__name__}()" if isinstance(operand, type) else ""
            raise FormulaError(f"{name} joins strategies and formulas of them, not {operand!r}{cure}")


def check_operands(name: str, arity: tuple[int, int | None], obstacles: Sequence[str | None]) -> None:
    """Refuse too few or too many operands, and those that cannot stand there.

    Args:
        name: of the composer.
        arity: the fewest and the most.
        obstacles: for every operand, why it cannot stand there, or none.

    Raises:
        ValueError: naming the composer.
    """
    fewest, most = arity
    if len(obstacles) < fewest or (most is not None and len(obstacles) > most):
        bound = f"{fewest}" if most == fewest else f"{fewest} or more" if most is None else f"{fewest} to {most}"
        raise ValueError(f"{name} takes {bound} operands, not {len(obstacles)}")
    for obstacle in obstacles:
        if obstacle is not None:
            raise ValueError(f"{name} joins orders: {obstacle}")


class Checked(ModelMetaclass):
    """The type of classes whose mistakes are told in this library's words, and not in pydantic's.

    That is so where they are called; what pydantic validates inside, with its places, stays as it is.
    """

    if not TYPE_CHECKING:

        def __call__(self, *args: object, **settings: object) -> object:
            """Make an instance.

            Raises:
                TokensieveError: as `refused` of the class says.
            """
            if args:
                names = listing(name for name in self.model_fields if name != "operands")
                raise SettingError(f"{self.__name__} takes its settings by name: {names}")
            try:
                return super().__call__(**settings)
            except ValidationError as error:
                raise self.refused(error) from None

        def _forgotten(self, *_: object) -> NoReturn:
            raise FormulaError(f"{self.__name__} is a class, and a formula joins instances; write {self.__name__}()")

        # Not `|`: it makes types, such as `GSP | None`.
        __and__ = __rand__ = __xor__ = __rxor__ = __sub__ = __rsub__ = _forgotten
        __rshift__ = __rrshift__ = __invert__ = _forgotten


class Value(BaseModel, metaclass=Checked):
    """A model that never changes: mistakes in its fields, and attempts to set one, are told in this library's words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: object) -> None:
            if not name.startswith("_"):
                raise SettingError(f"{name} of a {type(self).__name__} cannot be set: {self._changed_copy()}")
            super().__setattr__(name, value)

        def __delattr__(self, name: str) -> None:
            raise SettingError(f"{name} of a {type(self).__name__} cannot be deleted: {self._changed_copy()}")

    @classmethod
    def refused(cls, error: ValidationError) -> TokensieveError:
        """Return the error for fields that are wrong."""
        return SettingError(
            unknown_setting(cls.__name__, cls.model_fields, error) or f"{cls.__name__}: {first_mistake(error)}"
        )

    def _changed_copy(self) -> str:
        """Return how a changed copy is made."""
        return f"it does not change; make another {type(self).__name__}"


def strategy_refusal(name: str, fields: Iterable[str], error: ValidationError) -> str:
    """Return what pydantic found wrong with a strategy's settings, with the strategy's name."""
    return unknown_setting(f"'{name}'", fields, error) or f"{name}: {first_mistake(error)}"


def unknown_setting(who: str, fields: Iterable[str], error: ValidationError) -> str:
    """Return that a setting is unknown, with those that are known, or nothing if the mistake is another."""
    detail = error.errors()[0]
    if detail["type"] == "extra_forbidden" and len(detail["loc"]) == 1:
        known, key = list(fields), str(detail["loc"][0])
        return f"{who} has no parameter '{key}'; it has {listing(known)}.{did_you_mean(key, known)}"
    return ""


def error_class(error: ValidationError) -> type[TokensieveError]:
    """Return `BudgetError` if one is the cause of pydantic's error, else `RecipeError`."""
    cause = error.errors()[0].get("ctx", {}).get("error")
    return type(cause) if isinstance(cause, BudgetError) else RecipeError


def refusal(name: str, error: ValidationError) -> str:
    """Return what pydantic found wrong with a composer's settings, with the composer's name."""
    said = first_mistake(error)
    if error.errors()[0]["type"] != "value_error":
        said = f"{name}'s {said}"
    return said if name in said else f"{name}: {said}"


def no_order(expression: object) -> str:
    """Return why an expression that is not nested cannot stand where an order is needed, and the cure."""
    name = getattr(expression, "name", "it")
    return (
        f"'{name}' chooses another set for every budget, which is no order; say how many it takes, such as {name}[64]"
    )
