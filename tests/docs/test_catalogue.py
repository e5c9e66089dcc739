"""Every registered strategy is in the catalogue, with where it comes from."""

import importlib.util
import re

import pytest
from benchmarks.parity import NOT_CALLED, ORIGINALS

import tokensieve as ts
from tokensieve.plugins.parameters import parameters
from tokensieve.recipes.cards import recipe_sentence
from tokensieve_strategies import STRATEGIES
from tokensieve_strategies._provenance import provenance

from .pages import DOCS

KNOWN = provenance()
REGISTRY = ts.default_registry()


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_registered_strategy_has_an_entry():
    missing = sorted(set(REGISTRY.strategies) - set(KNOWN.strategies))
    assert missing == [], "give them an entry in tokensieve_strategies/provenance.yaml"


def test_every_name_in_the_file_is_a_publication_of_the_file():
    named = {one for origin in KNOWN.strategies.values() for one in origin.publications}
    assert named == set(KNOWN.publications)
    assert {one for table in KNOWN.tables for one in (table.by, *table.rows)} <= set(KNOWN.publications)


@pytest.mark.parametrize("cls", STRATEGIES, ids=lambda cls: cls.name)
def test_a_strategy_and_its_entry_name_one_paper(cls):
    papers = {KNOWN.publications[one].paper for one in KNOWN.strategies[cls.name].publications}
    assert cls.paper in papers or (cls.paper is None and papers <= {None})


@pytest.mark.parametrize("name", sorted(set(KNOWN.publications) & set(REGISTRY.recipes)))
def test_the_recipe_that_reproduces_a_publication_is_made_of_its_strategies(name):
    recipe = ts.Recipe.load(name)
    used = {strategy.name for stage in recipe.stages for strategy in stage.select.strategies()}
    of_it = {strategy for strategy, origin in KNOWN.strategies.items() if name in origin.publications}
    controls = {strategy for strategy, origin in KNOWN.strategies.items() if not origin.publications}
    assert used & of_it
    assert used <= of_it | controls
    assert recipe.paper == KNOWN.publications[name].paper


def test_every_publication_stands_on_the_page_of_parity():
    page = (DOCS / "parity.md").read_text(encoding="utf-8")
    compared = page.split("## What was compared")[1].split("## ")[0]
    rows = {line.split("|")[1].split(",")[0].strip(): line for line in compared.splitlines() if line.startswith("| ")}
    assert {work.title for work in KNOWN.publications.values()} <= set(rows)
    for work in KNOWN.publications.values():
        repository, commit = re.split("[,;]", work.code)[0], re.search(r"commit (\w+)", work.code)
        # A second version stands in the line below the first.
        line = rows[work.title].replace("the same, version 2.0", rows["SparseVLM"])
        assert repository in line
        assert commit is None or commit[1] in line
        assert work.licence.split(";")[0] in line
    for original in ORIGINALS.values():
        assert f"`{original.file}`" in page
        assert not original.name or f"`{original.name.rsplit('.', 1)[-1]}`" in page or f"`{original.name}" in page
    assert set(ORIGINALS) | set(NOT_CALLED) >= set(KNOWN.publications) - {"script"}


def test_tables_are_whole():
    for table in KNOWN.tables:
        assert {len(row) for row in table.rows.values()} == {len(table.columns)}, table.title


def test_an_entry_may_be_of_a_strategy_that_is_not_registered(hooks, monkeypatch):
    smaller = ts.Registry()
    smaller.add_strategy(REGISTRY.strategy("gsp"))
    monkeypatch.setattr(hooks.ts, "default_registry", lambda: smaller)
    assert len(hooks.catalogue().splitlines()) == 3
    assert hooks.methods().count("### ") == 1
    assert "To reproduce it: no recipe yet." in hooks.methods()


def test_the_page_has_every_parameter_as_the_command_has_it(hooks):
    page = hooks.methods() + hooks.others()
    for cls in (*REGISTRY.strategies.values(), *REGISTRY.composers.values(), *REGISTRY.tasks.values()):
        for one in parameters(cls):
            default = "required" if one.default is None else f"`{one.default}`"
            row = " | ".join((f"`{one.name}`", one.values, default, one.meaning.replace("|", "\\|")))
            assert f"| {row} |" in page, one
    recipes = hooks.recipes()
    for name, file in REGISTRY.recipes.items():
        assert f"| `{name}` | {recipe_sentence(file.read_text(encoding='utf-8'))} |" in recipes


def test_the_page_says_what_the_classes_and_the_file_say(hooks):
    text = hooks.methods()
    assert [line.removeprefix("### ") for line in text.splitlines() if line.startswith("### ")] == sorted(
        REGISTRY.strategies
    )
    assert "the least redundant tokens stay, not the most redundant" in text
    assert "Does not keep `ties_by_id`: which side a token is on" in text
    assert "CC BY-NC 4.0" in hooks.catalogue()
    assert "| [DivPrune](https://arxiv.org/abs/2503.02175) | 97.5 | 94.7 | 91.3 |" in hooks.published()
