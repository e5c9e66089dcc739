"""The values that a search tries for the settings of strategies and composers, from what their fields declare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import Any

from pydantic import BaseModel, ValidationError

from tokensieve.composers.expression import Composer, Expression
from tokensieve.errors import TokensieveError
from tokensieve.plugins.parameters import described_schema
from tokensieve.strategy import Strategy

SEED = "seed"
"""The field of strategies that draw at random. A search does not choose it: that would find lucky draws."""
MOST_VARIANTS = 4
"""The most settings that are tried of one composer."""
_PARTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where in a range with two ends values are tried ..."""
_FACTORS = (0.25, 0.5, 2.0, 4.0)
"""... and by what the default is multiplied where a range has one end."""


def strategy_values(cls: type[Strategy], seen: Iterable[Strategy] = ()) -> dict[str, tuple[Any, ...]] | None:
    """Return the values of each setting of a strategy, the default first.

    Tried are the default, the values of the strategy's examples and of recipes, all values of a finite type, and
    numbers of the declared range.

    Args:
        cls: the strategy.
        seen: instances of it in recipes.

    Returns:
        Values by setting; none if the strategy draws at random, or needs a setting that has no default.
    """
    fields = cls.model_fields
    if SEED in fields or any(field.is_required() for field in fields.values()):
        return None
    known = list(seen)
    declared = _declared_values(cls)
    values = {}
    for name, field in fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        given = [example[name] for example in cls.examples if name in example]
        tried = _distinct([default, *given, *(getattr(one, name) for one in known), *declared[name]])
        values[name] = tuple(value for value in tried if _accepts(cls, name, value))
    return values


def composer_variants(cls: type[Composer], operands: tuple[Expression, ...]) -> Iterator[dict[str, Any]]:
    """Yield settings with which a composer takes operands: defaults, those of its examples, and values of its fields.

    Args:
        cls: the composer.
        operands: operands as a search would give them.
    """
    choices = {name: values for name, values in _declared_values(cls).items() if values and name != "operands"}
    crossed = [dict(zip(choices, values, strict=True)) for values in product(*choices.values())] if choices else []
    known: set[Expression] = set()
    for settings in [{}, *cls.examples, *crossed]:
        try:
            made = cls.of(*operands, **settings)
        except TokensieveError:
            # The settings are for another number of operands, or do not go together.
            continue
        if made not in known and len(known) < MOST_VARIANTS:
            known.add(made)
            yield {name: getattr(made, name) for name in cls.parameters()}


def _declared_values(cls: type[BaseModel]) -> dict[str, list[Any]]:
    """Return what the type and the range of each field name, by field."""
    properties = described_schema(cls)["properties"]
    return {
        name: list(_declared(properties.get(name, {}), field.get_default() if not field.is_required() else None))
        for name, field in cls.model_fields.items()
    }


def _declared(schema: Mapping[str, Any], default: object) -> Iterator[Any]:
    """Yield the values that the JSON Schema of a field names."""
    for joined in ("anyOf", "oneOf"):
        for one in schema.get(joined, ()):
            yield from _declared(one, default)
    yield from schema.get("enum", [schema["const"]] if "const" in schema else [])
    match schema.get("type"):
        case "boolean":
            yield from (False, True)
        case "null":
            yield None
        case "integer" | "number" as named:
            kind = int if named == "integer" else float
            # Rounded, because a recipe is there to be read.
            yield from (kind(float(f"{value:.4g}")) for value in _numbers(schema, default))


def _numbers(schema: Mapping[str, Any], default: object) -> list[float]:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is not None and high is not None:
        return [low + (high - low) * part for part in _PARTS]
    if (low is None and high is None) or isinstance(default, bool) or not isinstance(default, (int, float)):
        return []
    return [default * factor for factor in _FACTORS]


def _accepts(cls: type[Strategy], name: str, value: object) -> bool:
    try:
        cls(**{name: value})
    except (TokensieveError, ValidationError):
        return False
    return True


def _distinct(values: Iterable[Any]) -> list[Any]:
    """Return values without repetitions; `1`, `1.0` and `True` are different ones."""
    return list({(type(value), repr(value)): value for value in values}.values())
