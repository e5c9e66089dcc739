"""The JSON Schema of recipe files, for completion and checks in editors; made from the registered strategies."""

from __future__ import annotations

from typing import Any

from tokensieve.algebra.budget import LONGEST as LONGEST_BUDGET
from tokensieve.composers.formula import LONGEST as LONGEST_FORMULA
from tokensieve.errors import (
    listing,
)
from tokensieve.plugins.parameters import described_schema, sentence
from tokensieve.plugins.registry import Registry, default_registry
from tokensieve.stage import Stage

_NUMBER = "([1-9][0-9]*|[1-9][0-9]* */ *[1-9][0-9]*|([0-9]+\\.?[0-9]*|\\.[0-9]+) *%|0?\\.[0-9]+|1\\.0*)"
_BUDGET = f"^(auto|(mean +)?{_NUMBER})$"


def schema(registry: Registry | None = None) -> dict[str, Any]:
    """Return the JSON Schema of recipe files, with the parameters of every registered strategy."""
    registry = registry or default_registry()
    operands: list[dict[str, Any]] = [
        {"type": "string", "enum": sorted(registry.strategies), "description": "a strategy with its defaults"}
    ]
    definitions: dict[str, Any] = {}
    for name, strategy in sorted(registry.strategies.items()):
        # Strategies of two plugins may have nested models of the same name.
        own = described_schema(strategy, f"#/$defs/{name}.{{model}}")
        definitions |= {f"{name}.{inner}": content for inner, content in own.pop("$defs", {}).items()}
        operands.append(
            {
                "type": "object",
                "title": name,
                "description": sentence(strategy),
                "properties": {"use": {"const": name}, **own.get("properties", {})},
                "required": ["use", *own.get("required", [])],
                "additionalProperties": False,
            }
        )
    formula = {
        "type": "string",
        "minLength": 1,
        "maxLength": LONGEST_FORMULA,
        "description": f"operands joined by & | ^ - ~ >> [m] and {listing(registry.composers)}",
    }
    budget = {
        "description": "a count, a fraction p/q, a decimal in (0, 1], a percentage, or auto; or a mean of one",
        "oneOf": [
            {"type": "integer", "minimum": 1},
            {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
            {"type": "string", "pattern": _BUDGET, "maxLength": len("mean ") + LONGEST_BUDGET},
        ],
    }
    choices = {
        field: {"enum": list(Stage.model_fields[field].annotation.__args__)}  # type: ignore[union-attr]
        for field in ("per", "rest", "newlines", "over")
    }
    fewer = {"type": "integer", "minimum": 0}
    stage = {
        "type": "object",
        "properties": {
            "at": {
                "description": "a site, or a range of them",
                "type": "string",
                "pattern": r"^(pixel\.0|(encoder|decoder)\.(0|[1-9][0-9]{0,3})(\.\.(0|[1-9][0-9]{0,3}))?)$",
            },
            "select": formula,
            "keep": {"oneOf": [budget, {"type": "array", "items": budget}]},
            "r": {
                "description": "how many tokens go, at most half of them, instead of how many stay",
                "oneOf": [fewer, {"type": "array", "items": fewer}],
            },
            "by": formula,
            "demand": formula | {"description": "what says how much each group needs, where keep is a mean"},
            **choices,
        },
        "required": ["at", "select"],
        "oneOf": [{"required": ["keep"]}, {"required": ["r"]}],
        # A list is allowed for a range of sites only, with one entry for each site.
        "if": {"properties": {"at": {"pattern": r"\.\."}}},
        "else": {"properties": {"keep": {"not": {"type": "array"}}, "r": {"not": {"type": "array"}}}},
        "additionalProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tokensieve recipe",
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "title": {"type": ["string", "null"], "description": "the name as papers write it, for their tables"},
            "paper": {"type": ["string", "null"]},
            "positions": {"enum": ["original", "compact"]},
            "strategies": {
                "type": "object",
                "propertyNames": {"not": {"enum": sorted(registry.composers)}},
                "additionalProperties": {"oneOf": operands},
            },
            "stages": {"type": "array", "minItems": 1, "items": stage},
            "budgets": {
                "description": "a list of budgets, one for each of several stages, by the count that stands for it",
                "type": "object",
                "propertyNames": {"pattern": "^[1-9][0-9]{0,8}$"},
                "additionalProperties": {"type": "array", "minItems": 2, "items": budget},
            },
        },
        "required": ["stages"],
        "additionalProperties": False,
        "$defs": definitions,
    }
