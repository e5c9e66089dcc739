"""The glossary has every concept once, in order, and words that were retired from the code do not come back."""

import ast
import inspect
import re

import pytest

import tokensieve as ts

from .pages import DOCS, PAGES, ROOT, blocks

GLOSSARY = (DOCS / "glossary.md").read_text(encoding="utf-8")
ENTRY = re.compile(r"^- \*\*(?P<word>[^*]+)\*\*\{#(?P<anchor>[\w-]+)\}: (?P<meaning>.+)$")

RETIRED_WORDS = {"sights", "shots", "towered", "unsaid"}
"""No part of any identifier."""
RETIRED_NAMES = {"sharing"}
"""No identifier."""
RETIRED_CLASSES = {"Asked", "Partner", "Words"}
RETIRED_METHODS = {"along", "apart", "together"}
SOURCES = [
    (path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    for folder in ("framework", "adapters", "strategies", "docs")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
SOURCES += [
    (f"{page.relative_to(ROOT).as_posix()}:{block.line}", block.code)
    for page in PAGES
    for block in blocks(page)
    if block.language == "python"
]


def entries(section):
    lines = [line for line in section.splitlines() if line.startswith("- ")]
    found = [ENTRY.match(line) for line in lines]
    assert None not in found, [line for line, match in zip(lines, found, strict=True) if match is None]
    return found


def sections():
    return re.split(r"^## .*$", GLOSSARY, flags=re.MULTILINE)[1:]


def test_every_anchor_is_its_word_and_unique():
    found = [entry for section in sections() for entry in entries(section)]
    anchors = [entry["anchor"] for entry in found]
    assert len(anchors) > 50
    assert len(anchors) == len(set(anchors))
    assert [re.sub(r"\W+", "-", entry["word"].lower()) for entry in found] == anchors


def test_entries_are_sorted_within_their_section():
    for section in sections():
        words = [entry["word"].lower() for entry in entries(section)]
        assert words
        assert words == sorted(words)


def test_every_entry_links_to_where_it_is_explained():
    found = [entry for section in sections() for entry in entries(section)]
    assert [entry["word"] for entry in found if not re.search(r"\]\(|\]\[", entry["meaning"])] == []


def test_every_public_class_is_in_the_glossary():
    classes = [name for name in ts.__all__ if inspect.isclass(getattr(ts, name))]
    concepts = [name for name in classes if not issubclass(getattr(ts, name), Exception)]
    assert [name for name in concepts if f"[tokensieve.{name}]" not in GLOSSARY] == []


def identifiers(tree):
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, (ast.arg, ast.keyword)) and node.arg is not None:
            yield node.arg
        elif isinstance(node, ast.alias):
            yield node.asname or node.name


def retired(code):
    tree = ast.parse(code)
    names = {name.strip("_") for name in identifiers(tree)}
    parts = {part.lower() for name in names for part in re.findall(r"[A-Z]?[a-z]+", name)}
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    methods = {part.name.strip("_") for node in classes for part in node.body if isinstance(part, ast.FunctionDef)}
    return {
        *(names & RETIRED_NAMES),
        *(parts & RETIRED_WORDS),
        *({node.name.strip("_") for node in classes} & RETIRED_CLASSES),
        *(methods & RETIRED_METHODS),
    }


@pytest.mark.parametrize(
    "code",
    ["ts.sharing(model)", "first_sights = 1", "class Words: pass", "class A:\n    def _apart(self): ..."],
)
def test_a_retired_word_is_found(code):
    assert retired(code)


def test_retired_words_are_no_identifiers():
    assert {where: found for where, code in SOURCES if (found := retired(code))} == {}
