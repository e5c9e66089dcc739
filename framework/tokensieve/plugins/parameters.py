"""What is known of a class of a plugin: its sentence, and its parameters with meaning, type, range and default.

Each fact has one source. The meaning is what the author wrote where authors write it: in `Field(description=...)`,
under `Attributes:` in the docstring of the class, or in a docstring below the field. Type, range and default are read
from the field, by which pydantic checks values. The command `plugins`, the catalogue and the JSON Schema all ask here.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema

from tokensieve.algebra.budget import Keep
from tokensieve.composers.settings import types_in

NOT_DESCRIBED = "not described by its author"
_HIDDEN = ("operands",)
"""Fields that no recipe sets by name."""
_BOUNDS = (
    ("minimum", "at least"),
    ("exclusiveMinimum", "above"),
    ("maximum", "at most"),
    ("exclusiveMaximum", "below"),
    ("minLength", "of a length of at least"),
    ("maxLength", "of a length of at most"),
    ("pattern", "that matches"),
    ("minItems", "with entries: at least"),
    ("maxItems", "with entries: at most"),
)
_TYPES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "null": "none"}
_NAMES = {"Keep": "count or fraction"}
"""What types of ours are in a formula."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of something registered.

    Attributes:
        name: what recipes call it.
        values: its type and range in words, as validation has them.
        default: the default as a recipe writes it; none where a value is required.
        meaning: what its author says of it.
    """

    name: str
    values: str
    default: str | None
    meaning: str = NOT_DESCRIBED


def sentence(documented: object) -> str:
    """Return the first paragraph of a docstring of its own as one line, or that there is none."""
    return next(iter(_paragraphs(documented)), NOT_DESCRIBED)


def differences(documented: object) -> str:
    """Return the paragraphs of a docstring about differences from the paper, or saying that there is no paper."""
    return " ".join(one for one in _paragraphs(documented) if one.startswith("Paper:") or "without a paper" in one)


def _paragraphs(documented: object) -> list[str]:
    """Return the paragraphs of a class's own docstring, each on one line; not those of a base class."""
    text = inspect.cleandoc(vars(documented).get("__doc__") or "") if isinstance(documented, type) else ""
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n") if paragraph.strip()]


def parameters(cls: type[BaseModel]) -> tuple[Parameter, ...]:
    """Return the parameters of a strategy, a composer or a task, in the order of its fields."""
    properties = described_schema(cls)["properties"]
    return tuple(
        Parameter(
            name, _values(field, properties[name]), _default(field), properties[name].get("description", NOT_DESCRIBED)
        )
        for name, field in cls.model_fields.items()
        if name not in _HIDDEN
    )


def described_schema(cls: type[BaseModel], ref_template: str = "#/$defs/{model}") -> dict[str, Any]:
    """Return the JSON Schema of a class, in which every field has its description, if its author gave one."""
    found = cls.model_json_schema(ref_template=ref_template, schema_generator=_Lenient)
    said = meanings(cls)
    for name, content in found.setdefault("properties", {}).items():
        if name in said:
            content.setdefault("description", said[name])
    return found


def meanings(cls: type) -> dict[str, str]:
    """Return what a class and those that it inherits from say of their fields, by field."""
    found: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        if one.__module__.split(".")[0] not in ("builtins", "pydantic", "abc"):
            found |= {**attribute_docstrings(one)} | _attributes_section(vars(one).get("__doc__") or "")
    return found


@cache
def attribute_docstrings(cls: type) -> Mapping[str, str]:
    """Return the docstrings that stand below the attributes of a class, on one line each; its source is read."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    # A class of a shell or of a zip has no source to read.
    except (OSError, SyntaxError, TypeError):
        return {}
    (node,) = tree.body
    found: dict[str, str] = {}
    body = node.body if isinstance(node, ast.ClassDef) else []
    for attribute, text in itertools.pairwise(body):
        match attribute, text:
            case (
                ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(said))),
            ):
                found[name] = " ".join(said.split())
    return found


def _attributes_section(docstring: str) -> dict[str, str]:
    """Return the entries under `Attributes:` of a docstring."""
    section = re.search(r"^Attributes:\n((?:[ \t]+.*(?:\n|$)|\n)+)", inspect.cleandoc(docstring), re.MULTILINE)
    if section is None:
        return {}
    entries = re.split(r"^(\w+)(?: \([^)]*\))?:", textwrap.dedent(section[1]), flags=re.MULTILINE)[1:]
    return {name: " ".join(text.split()) for name, text in zip(entries[::2], entries[1::2], strict=True)}


class _Lenient(GenerateJsonSchema):
    """Describes what JSON has no type for by the name of its type, instead of giving up."""

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
        return {"title": getattr(schema.get("cls"), "__name__", "value")}


def _values(field: FieldInfo, schema: Mapping[str, Any]) -> str:
    said = _words(schema)
    # For JSON, a quotient is a text.
    return said.replace("number, or text", "number or quotient") if Fraction in types_in(field.annotation) else said


def _words(schema: Mapping[str, Any]) -> str:
    """Return a JSON Schema in words."""
    for joined in ("anyOf", "oneOf"):
        if joined in schema:
            return ", or ".join(dict.fromkeys(_words(one) for one in schema[joined]))
    if "enum" in schema or "const" in schema:
        return " or ".join(_written(one) for one in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type")
    if kind == "array":
        said = f"list of {_words(schema['items'])}" if schema.get("items") else "list"
    elif kind == "object":
        said = "mapping"
    else:
        named = str(schema.get("$ref", schema.get("title", "value"))).rpartition("/")[2]
        said = _TYPES.get(str(kind)) or _NAMES.get(named, named)
    if "minimum" in schema and "maximum" in schema:
        return f"{said} from {schema['minimum']} to {schema['maximum']}"
    bounds = [f"{word} {schema[key]}" for key, word in _BOUNDS if key in schema]
    # "number above 0, at most 1"
    return f"{said} {', '.join(bounds)}".strip()


def _default(field: FieldInfo) -> str | None:
    """Return a default as YAML writes it."""
    return None if field.is_required() else _written(field.get_default(call_default_factory=True, validated_data={}))


def _written(value: object) -> str:
    if isinstance(value, Enum):
        value = value.value
    if value is None:
        return "none"
    if isinstance(value, str):
        return value or "''"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_written(one) for one in value)}]"
    return str(value) if isinstance(value, (Fraction, Keep)) else json.dumps(value, default=str)
