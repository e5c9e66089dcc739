"""The site is built without a warning, holds what it must, and asks nothing of the network."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import tokensieve as ts
from tokensieve import errors

from .pages import DOCS, ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if "TOKENSIEVE_SITE" in os.environ:
        # `make test` has just built it, as below.
        return Path(os.environ["TOKENSIEVE_SITE"])
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    # The theme's remark about mkdocs 2, which pyproject.toml excludes.
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    # The build is the test; what it covers is not.
    environment.pop("COVERAGE_PROCESS_CONFIG", None)
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    return folder


def test_nothing_is_asked_of_the_network(site):
    for page in site.rglob("*.html"):
        for tag in re.findall(r"<(?:script|img|iframe|source|link)\b[^>]*>", page.read_text(encoding="utf-8")):
            assert not re.search(r'(?:src|href)="(?:https?:)?//', tag), f"{page.name}: {tag}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name


def test_everything_is_in_the_reference(site):
    pages = "".join(page.read_text(encoding="utf-8") for page in (site / "reference").glob("*.html"))
    ids = set(re.findall(r'id="([^"]+)"', pages))
    public = [name for name in ts.__all__ if name not in ("TokensieveError", "hookimpl")]
    raised = [name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)]
    assert {f"tokensieve.{name}" for name in public} <= ids
    assert {f"tokensieve.errors.{name}" for name in raised} <= ids


def test_tables_and_figures_are_in_place(site):
    for page in site.rglob("*.html"):
        assert "<!-- table" not in page.read_text(encoding="utf-8")
    recipes = (site / "recipes.html").read_text(encoding="utf-8")
    registry = ts.default_registry()
    for name in (*registry.recipes, *registry.strategies):
        assert f"<td><code>{name}</code></td>" in recipes
    catalogue = (site / "catalogue.html").read_text(encoding="utf-8")
    for name in registry.strategies:
        assert f'href="#{name}"' in catalogue
        assert f'<h3 id="{name}">' in catalogue
    assert (site / "ideas" / "algebra.html").read_text(encoding="utf-8").count('<div class="figure"><svg') == 2


def test_figures_of_reports_take_the_colours_of_the_page(site):
    page = (site / "findings.html").read_text(encoding="utf-8")
    said = re.findall(
        r"^!\[([^]]*)\]\(assets/findings/", (DOCS / "findings.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    figures = re.findall(
        r'<div class="figure" data-search-exclude><svg role="img" aria-label="([^"]*)".*?</svg></div>', page, re.DOTALL
    )
    assert figures == said
    assert len(said) > 3
    drawn = page[page.index("<article") : page.index("</article")]
    assert "currentColor" in drawn
    # The paper of our own figures has no colour on the page, by its style sheet.
    assert "#ffffff" not in re.sub(r'<rect class="paper"[^>]*>', "", drawn)
    ids = re.findall(r'\bid="([^"]+)"', drawn)
    assert len(ids) == len(set(ids))
    assert re.search(r"\[[-+.\d]+,&nbsp;[-+.\d]+\]", drawn)
    assert "xtick" not in (site / "search" / "search_index.json").read_text(encoding="utf-8")


def test_a_command_in_a_table_wraps_between_words_and_leaves_room_for_what_it_does(site):
    page = (site / "reference.html").read_text(encoding="utf-8")
    commands = re.findall(r'<td(?: class="(usage)")?><code>(tokensieve .*?)</code></td>', page)
    assert len(commands) > 10
    for usage, code in commands:
        words = re.sub("<[^>]*>", "", code)
        assert (usage == "usage") == (len(words) > 32), words
        assert all(
            f'<span class="word">{word}</span>' in code for word in words.split() if word.lstrip("[(")[0] == "-"
        ), code
    assert "last|all" in page
    assert r"\|" not in page


def test_every_decision_is_in_the_list_and_none_in_the_navigation(site):
    index = (site / "decisions" / "index.html").read_text(encoding="utf-8")
    for decision in (DOCS / "decisions").glob("[0-9]*.md"):
        assert index.count(f'href="{decision.stem}.html"') == 1, decision.name


def test_files_of_the_repository_are_included(site):
    for page, words in (("changelog", "Keep a Changelog"), ("contributing", "lint-imports"), ("citing", "cff-version")):
        text = (site / "project" / f"{page}.html").read_text(encoding="utf-8")
        assert words in text
        assert "<!-- file" not in text


def test_figures_are_what_the_script_draws():
    figures = runpy.run_path(str(DOCS / "figures.py"))["FIGURES"]
    assert {file.name for file in (DOCS / "assets").glob("*.svg")} == set(figures)
    for name, drawn in figures.items():
        said = f"{name} is not what docs/figures.py draws; run it"
        assert (DOCS / "assets" / name).read_text(encoding="utf-8") == drawn(), said
