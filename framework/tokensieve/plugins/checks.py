"""What a class must be before a registry takes it.

A class attribute of a wrong kind would be found late and far away, or never: `model_types = "llava"` matches every
model whose type is a letter of it. So all of them are looked at when the class is registered.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from pydantic import BaseModel
from torch import Tensor

from tokensieve.composers.expression import Composer
from tokensieve.composers.formula import SYMBOLS
from tokensieve.composers.settings import types_in
from tokensieve.errors import SettingError, listing
from tokensieve.evidence import Evidence
from tokensieve.models.adapter import Adapter
from tokensieve.models.decoder import Decoder
from tokensieve.models.encoder import Encoder
from tokensieve.plugins.plugin import usable
from tokensieve.plugins.renamed import ADAPTER, DECODER, ENCODER
from tokensieve.strategy import Strategy
from tokensieve.tasks.base import Task

_MUTABLE = {list: "tuple[...]", set: "frozenset[...]", dict: "a tuple of pairs", bytearray: "bytes", Tensor: "a tuple"}


def problem(cls: type) -> str | None:
    """Return the first thing that is wrong with a class of a plugin, or none.

    Args:
        cls: a subclass of Strategy, Composer, Adapter or Task, without abstract methods.
    """
    return next(_problems(cls), None)


def _problems(cls: type) -> Iterator[str]:
    name = getattr(cls, "name", None)
    if not isinstance(name, str):
        yield f'has no name; set name = "..." (it is {name!r})' if name is not None else 'has no name; set name = "..."'
    elif not usable(name):
        yield f"is named '{name}', which is no Python identifier; formulas could not name it"
    elif issubclass(cls, Strategy):
        yield from _strategy(cls)
    elif issubclass(cls, Composer):
        yield from _composer(cls)
    elif issubclass(cls, Adapter):
        yield from _adapter(cls)
    elif issubclass(cls, Task):
        yield from _task(cls)


def _strategy(cls: type[Strategy]) -> Iterator[str]:
    if "use" in cls.model_fields:
        yield "has a parameter 'use', which is what recipes call the strategy itself; name it otherwise"
    yield from _settings(cls)
    yield from _kind(cls, "nested", bool, "True or False")
    if cls.paper is not None:
        yield from _kind(cls, "paper", str, "an address, or none")
    if cls.complexity is not None:
        yield from _kind(cls, "complexity", tuple, 'how time and memory grow, such as ("O(n d)", "O(n)"), or none')
    yield from _known_failures(cls)
    yield from _examples(cls)
    yield from _needs(cls)


def _composer(cls: type[Composer]) -> Iterator[str]:
    if cls.combine is Composer.combine and cls.read is Composer.read:
        yield "implements neither combine nor read"
    if "__dataclass_fields__" in vars(cls):
        yield "is a dataclass; its settings are fields already: leave out @dataclass"
    for setting, field in cls.model_fields.items():
        if setting != "operands" and field.is_required():
            yield f"has no default for '{setting}'; give it one"
    yield from _settings(cls)
    for flag in ("nested", "whole", "sized"):
        yield from _kind(cls, flag, bool, "True or False")
    yield from _known_failures(cls)
    yield from _examples(cls)
    if cls.symbol is not None and cls.symbol not in SYMBOLS:
        yield f"has the symbol {cls.symbol!r}; formulas know {listing(SYMBOLS)}"
    arity: Any = cls.arity
    bounds = isinstance(arity, tuple) and len(arity) == 2 and type(arity[0]) is int and arity[0] > 0
    if not bounds or not (arity[1] is None or (type(arity[1]) is int and arity[1] >= arity[0])):
        yield f"has arity = {arity!r}; write the fewest and the most operands, such as (2, None) or (1, 1)"


def _adapter(cls: type[Adapter]) -> Iterator[str]:
    for own, base, renamed in (
        (cls, Adapter, ADAPTER),
        (cls.decoder_type, Decoder, DECODER),
        (cls.encoder_type, Encoder, ENCODER),
    ):
        yield from _renamed(own, base, renamed)
    types: Any = cls.model_types
    if not isinstance(types, tuple) or not all(isinstance(one, str) for one in types):
        cure = f"({types!r},)" if isinstance(types, str) else '("llava",)'
        yield f"has model_types = {types!r}; write a tuple of types, such as {cure}"
    for attribute, base in (("decoder_type", Decoder), ("encoder_type", Encoder)):
        value = getattr(cls, attribute)
        if value is not None and not (isinstance(value, type) and issubclass(value, base)):
            yield f"has {attribute} = {value!r}, which is no subclass of {base.__name__}"
    oldest: Any = cls.oldest_transformers
    if not isinstance(oldest, tuple) or len(oldest) != 2 or not all(type(part) is int for part in oldest):
        yield f"has oldest_transformers = {oldest!r}; write two numbers, such as (5, 19)"
    if cls.refusal_reason is not None:
        yield from _kind(cls, "refusal_reason", str, "the reason, or none")
    decoder = cls.decoder_type
    if decoder is not None:
        for attribute in ("vision_model_types", "vision_modalities"):
            names: Any = getattr(decoder, attribute)
            if not isinstance(names, frozenset) or not all(isinstance(one, str) for one in names):
                yield f"has {decoder.__name__}.{attribute} = {names!r}; write frozenset({{...}}) of names"
        if not isinstance(inspect.getattr_static(decoder, "refused_inputs"), (Mapping, property)):
            yield f"has {decoder.__name__}.refused_inputs that is no mapping from arguments to reasons"


def _renamed(own: object, base: type, renamed: Mapping[str, str]) -> Iterator[str]:
    """Find what a class still defines under an old name, which is never called."""
    if isinstance(own, type) and issubclass(own, base):
        for one in own.__mro__[: own.__mro__.index(base)]:
            for name in sorted(vars(one).keys() & renamed.keys()):
                yield f"defines {one.__name__}.{name}, which is called {renamed[name]} now"


def _task(cls: type[Task]) -> Iterator[str]:
    field = cls.model_fields.get("metric")
    if not isinstance(getattr(cls, "metric", None) if field is None else field.default, str):
        yield 'does not say which grade counts; give it a default: metric: str = "..."'
    if "use" in cls.model_fields:
        yield "has a field 'use', which names the task itself"


def _settings(cls: type[BaseModel]) -> Iterator[str]:
    """Find settings that can change: values are frozen, compared and kept in sets."""
    for setting, field in cls.model_fields.items():
        for kind, instead in _MUTABLE.items():
            if kind in set(types_in(field.annotation)):
                yield f"has the setting '{setting}' of the type {kind.__name__}, which can change; use {instead}"


def _kind(cls: type, attribute: str, kind: type, what: str) -> Iterator[str]:
    value = getattr(cls, attribute)
    if not isinstance(value, kind):
        yield f"has {attribute} = {value!r}; it is {what}"


def _known_failures(cls: type[Strategy] | type[Composer]) -> Iterator[str]:
    failures: Any = cls.known_failures
    if not isinstance(failures, Mapping) or not all(isinstance(one, str) for pair in failures.items() for one in pair):
        yield f"has known_failures = {failures!r}; it is a mapping from laws to reasons"


def _examples(cls: type[Strategy] | type[Composer]) -> Iterator[str]:
    examples: Any = cls.examples
    if not isinstance(examples, tuple) or not all(isinstance(one, dict) for one in examples):
        yield f"has examples = {examples!r}; it is a tuple of settings, such as ({{}}, {{'p': 1.0}})"
        return
    for example in examples:
        unknown = set(example) - set(cls.model_fields)
        if unknown:
            yield f"has an example with {listing(map(repr, unknown))}, which is no setting of it"
        elif issubclass(cls, Strategy):
            try:
                cls(**example)
            except SettingError as error:
                yield f"has the example {example!r} that it refuses itself: {error}"


def _needs(cls: type[Strategy]) -> Iterator[str]:
    if "needs" in cls.model_fields:
        yield "has needs as a setting; write it without a type, needs = frozenset({Evidence.GRID}), or as a property"
        return
    value = inspect.getattr_static(cls, "needs")
    if isinstance(value, (property, cached_property)):
        instance = next((cls(**example) for example in cls.examples), None)
        if instance is None:
            return
        value = instance.needs
    if not isinstance(value, frozenset) or not all(isinstance(one, Evidence) for one in value):
        kinds = set(map(str, Evidence))
        given = [str(one) for one in value] if isinstance(value, (set, frozenset, list, tuple)) else []
        cure = ", ".join(f"Evidence.{one.upper()}" for one in sorted(given) if one in kinds) or "Evidence.GRID"
        yield f"has needs = {value!r}; write frozenset({{{cure}}}). Kinds of evidence: {listing(kinds)}"
