"""A strict subset of YAML 1.2, read with the line of every key and item."""

from __future__ import annotations

import errno
import os
import pathlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.reader import ReaderError

from tokensieve.algebra.budget import Decimal
from tokensieve.errors import RecipeError

LARGEST = 64 * 1024
DEEPEST = 32
NUMBERED = ("budgets",)
"""The path of the only mapping whose keys are numbers."""

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """A YAML document, with the lines of its parts.

    Attributes:
        data: the content: mappings, lists and scalars.
        lines: the 1-based line of every key and item, by path.
        changed: what was changed after reading, by path, and where that was said, such as `--set limit=100`.
    """

    data: Any
    lines: dict[Path, int]
    changed: Mapping[Path, str] = field(default_factory=dict)

    def place(self, path: Path, source: str) -> str:
        """Return `source` and line of the innermost part of `path` in the document, or where it was changed.

        It is empty where the source is: of a formula that stands in no file.
        """
        for end in range(len(path), 0, -1):
            if path[:end] in self.changed:
                return self.changed[path[:end]]
        return f"{source}:{self.line(path)}" if source else ""

    def line(self, path: Path) -> int:
        """Return the line of the innermost part of `path` that is in the document."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        # A part of a document that stands for itself begins where it stands.
        return self.lines.get((), 1)


class _Loader(yaml.SafeLoader):
    """Composes nodes with the scalars of YAML 1.2's JSON-compatible core: no `on`, `1:30` or `010`."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own form


for _tag, _pattern, _first_characters in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first_characters)


class _Dumper(yaml.SafeDumper):
    """Quotes strings that a reader of YAML 1.1 or of this subset would not read as strings."""


for _sign, _resolvers in _Loader.yaml_implicit_resolvers.items():
    for _tag, _regexp in _resolvers:
        _Dumper.add_implicit_resolver(_tag, _regexp, [_sign])

_ALLOWED_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "map", "seq")}


def file_text(path: pathlib.Path) -> str:
    """Return the text of a file of YAML; of one that is too large, as much as `read` needs to refuse it.

    Raises:
        FileNotFoundError: if there is no file.
        RecipeError: if it is no file, or no text.
    """
    # Not by methods of the path, which raise where a name is too long.
    if os.path.isdir(path):
        inside = sorted(one.name for one in path.glob("*.y*ml"))
        such = f", such as {path / inside[0]}" if inside else "; there is no .yaml in it"
        raise RecipeError(f"{path} is a folder: name a file in it{such}")
    if os.path.exists(path) and not os.path.isfile(path):
        raise RecipeError(f"{path} is a pipe or a device: write its content to a file, and name that")
    try:
        with path.open(encoding="utf-8") as opened:
            # One character more than the limit, so that a file without an end is refused as too large.
            return opened.read(LARGEST + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        # A name that is too long is that of no file.
        if error.errno == errno.ENAMETOOLONG:
            raise FileNotFoundError(error.errno, error.strerror, str(path)) from None
        raise RecipeError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise RecipeError(f"{path} is no UTF-8 text (it holds the byte 0x{byte:02x}): save it as UTF-8 text") from None
    except ValueError as error:
        raise RecipeError(f"{path} cannot be read: {error}") from None


LEAST = "`stages:` and below it `- {at: decoder.0, select: gsp, keep: 64}`"
"""What a recipe must hold."""


def read(text: str, source: str, least: str = LEAST) -> Document:
    """Read one YAML document.

    Args:
        text: the document.
        source: its path, for messages.
        least: what it must hold, for messages.

    Raises:
        RecipeError: if it is not YAML, is too large or too deep, or uses tags, anchors, aliases,
            merge keys, duplicate keys or keys that are no strings.
    """
    if len(text) > LARGEST:
        raise RecipeError(f"a file has at most {LARGEST} characters, this one more  ({source}:1)")
    lines: dict[Path, int] = {}
    try:
        _check_events(text, source)
        node = yaml.compose(text, Loader=_Loader)
    except ReaderError as error:
        line = text.count("\n", 0, int(error.position)) + 1
        raise RecipeError(
            f"the character U+{error.character:04X} cannot stand in YAML; remove it, or save the file as UTF-8 text  "
            f"({source}:{line})"
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None else 1
        problem = getattr(error, "problem", None) or str(error).split("\n")[0]
        raise RecipeError(f"this is not YAML: {_cure(problem)}  ({source}:{line})") from None
    if node is None:
        raise RecipeError(f"the file is empty; write at least {least}  ({source}:1)")
    return Document(_build(node, (), lines, source), lines)


_CURES = (
    (r"'\\t'", "a tab stands where YAML has spaces; indent by spaces"),
    (
        r"comment or a line break|chomping or indentation",
        "a value that begins with | or > is a block of text; if it is a formula, quote it: select: '...'",
    ),
    (r"alphabetic or numeric", "a value cannot begin with & or * and a space; quote the formula: select: '...'"),
    (
        r"found character '>' that",
        "a formula between { and } ends at a bracket; quote it: select: '...'",
    ),
    (r"found character '(.)' that cannot start", r"a value cannot begin with \1; quote it: '\1...'"),
    (
        r"mapping values are not allowed",
        "there is a colon too many, or the key is not aligned with those above it; align the keys, and quote a value "
        "that holds a colon and a space",
    ),
    (
        r"expected <block end>|could not find expected ':'|did not find expected",
        "this line fits none above it; align the keys of a mapping, and the dashes of a list, and quote a value that "
        "begins with a quote, a bracket or a sign",
    ),
    (r"expected ',' or|expected the node content", "a bracket { or [ is not closed, or a comma is missing"),
    (r"unexpected end of stream|quoted scalar", "a quote is not closed"),
    (r"unknown escape", "a backslash stands in double quotes; use single quotes"),
)
"""What to do about a problem that PyYAML tells in words of its own."""


def _cure(problem: str) -> str:
    for pattern, cure in _CURES:
        found = re.search(pattern, problem)
        if found is not None:
            return found.expand(cure)
    return problem


def write(data: Any) -> str:
    """Return plain data as YAML text. `read` of this text returns equal data."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return text


def _check_events(text: str, source: str) -> None:
    """Refuse forbidden YAML by its events, before anything is built, so that no alias is ever expanded."""
    depth = 0
    documents = 0
    for event in yaml.parse(text, Loader=_Loader):
        # Events always have a mark here, but PyYAML's types say that it is optional.
        line = event.start_mark.line + 1 if event.start_mark is not None else 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise RecipeError(
                "anchors and aliases (& and * at the beginning of a value) are not used here; write it out, or quote "
                f"it if it is a formula: select: '...'  ({source}:{line})"
            )
        if isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)) and event.tag is not None:
            raise RecipeError(f"tags such as {event.tag} are not used here; remove it  ({source}:{line})")
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise RecipeError(f"a file is one document; remove the second `---`  ({source}:{line})")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                raise RecipeError(f"a file is nested at most {DEEPEST} deep  ({source}:{line})")
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _build(node: yaml.Node, path: Path, lines: dict[Path, int], source: str) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str | int, Any] = {}
        numbered = path == NUMBERED
        for key_node, value_node in node.value:
            at = key_node.start_mark.line + 1
            tag = f"tag:yaml.org,2002:{'int' if numbered else 'str'}"
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != tag:
                what = f"a number under {path[-1]}" if numbered else "a word"
                raise RecipeError(f"a key is {what}; {_shown(key_node)} is not  ({source}:{at})")
            key = _integer(key_node.value, source, at) if numbered else str(key_node.value)
            if key in mapping:
                first = lines[(*path, key)]
                raise RecipeError(
                    f"'{key}' stands here a second time (first at line {first}); remove one of the two  ({source}:{at})"
                )
            lines[(*path, key)] = at
            mapping[key] = _build(value_node, (*path, key), lines, source)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*path, i), lines, source) for i, item in enumerate(node.value)]
    if node.tag not in _ALLOWED_TAGS:
        raise RecipeError(f"tags such as {node.tag} are not used here  ({source}:{line})")
    text = str(node.value)
    match node.tag.rpartition(":")[2]:
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            return _integer(text, source, line)
        case "float":
            return Decimal(text)
    return text


def _integer(text: str, source: str, line: int) -> int:
    if len(text) > 20:
        raise RecipeError(f"{text[:20]}... is too large a number  ({source}:{line})")
    return int(text)


def _shown(node: yaml.Node) -> str:
    return repr(node.value) if isinstance(node, yaml.ScalarNode) else "a list or mapping"
