"""Everything a user can name stands on a page."""

import re

import pytest

import tokensieve as ts
from tokensieve import errors
from tokensieve.cli.app import COMMANDS as NAMES
from tokensieve.cli.app import command_function
from tokensieve.plugins import hookspecs
from tokensieve.tasks.jsonl import VqaJsonl
from tokensieve.tasks.jsonl_lines import Line
from tokensieve.tasks.metric_table import METRICS
from tokensieve.testing.composers.conformance import COMPOSER_LAWS
from tokensieve.testing.strategies.conformance import CHOOSER_LAWS, LAWS, MERGER_LAWS
from tokensieve.testing.tasks import TASK_LAWS

from .pages import DOCS, PAGES, blocks

REFERENCE = "\n".join(
    page.read_text(encoding="utf-8") for page in (DOCS / "reference.md", *sorted((DOCS / "reference").glob("*.md")))
)
RECIPES = (DOCS / "recipes.md").read_text(encoding="utf-8")
BUDGETS = (DOCS / "ideas" / "budgets.md").read_text(encoding="utf-8")
TASKS = (DOCS / "howto" / "tasks.md").read_text(encoding="utf-8")
STRATEGY = (DOCS / "howto" / "strategy.md").read_text(encoding="utf-8")
COMMANDS = [command_function(name) for name in NAMES]


def first_cells(text):
    """What stands in code in the first cells of the rows of all tables."""
    return set(re.findall(r"^\| `([^`]+)`", text, re.MULTILINE))


def test_all_that_is_public_is_in_the_reference():
    listed = re.findall(r"^::: tokensieve\.(\w+)$", REFERENCE, re.MULTILINE)
    assert len(listed) == len(set(listed))
    # The root of the errors stands among them, and `hookimpl` is a value without a docstring.
    assert set(listed) - {"errors"} == set(ts.__all__) - {"TokensieveError", "hookimpl"}


def test_every_hook():
    hooks = {hook for hook, value in vars(hookspecs).items() if hasattr(value, f"{hookspecs.PROJECT}_spec")}
    assert {"register_strategies", "stage_settled"} <= hooks
    assert hooks <= {cell.split("(")[0] for cell in first_cells(REFERENCE)}


def test_every_kind_of_evidence_has_its_shape():
    assert {str(kind) for kind in ts.Evidence} <= first_cells(STRATEGY)


def test_every_law_of_a_strategy():
    assert {law.__name__ for law in (*LAWS, *CHOOSER_LAWS, *MERGER_LAWS)} <= first_cells(STRATEGY)


def test_every_law_of_a_composer():
    page = (DOCS / "howto" / "composer.md").read_text(encoding="utf-8")
    assert {law.__name__ for law in COMPOSER_LAWS} <= first_cells(page)
    assert {"arity", "whole", "nested", "sized"} <= first_cells(page)


def test_all_about_tasks():
    cells = first_cells(TASKS)
    assert {law.__name__ for law in TASK_LAWS} <= cells
    assert set(METRICS) <= cells
    # A row may be about several settings.
    named = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| ([^|]+) \|", TASKS, re.MULTILINE))))
    assert set(VqaJsonl.model_fields) | set(Line.model_fields) <= named


def test_evidence_that_nobody_offers():
    """The table of evidence says which kinds no adapter offers."""
    anywhere = set()
    for cls in ts.default_registry().adapters.values():
        adapter = cls(cls.tiny())
        for site in adapter.sites():
            anywhere |= adapter.offers(site)
    nowhere = set(re.findall(r"^\| `(\w+)` .* no adapter offers it yet \|$", STRATEGY, re.MULTILINE))
    assert nowhere == {str(kind) for kind in set(ts.Evidence) - anywhere}


def test_every_kind_of_site():
    assert {"encoder.K", "decoder.0", "decoder.K"} <= first_cells(REFERENCE)


def test_every_key_of_a_recipe_and_every_choice():
    keys = {*ts.Recipe.model_fields, *ts.Stage.model_fields}
    assert keys <= first_cells(RECIPES)
    [everything] = [block.code for block in blocks(DOCS / "recipes.md") if block.title == "two-cuts.yaml"]
    for key in keys:
        assert re.search(rf"^[ -]*{key}:", everything, re.MULTILINE), key
    for model, field in ((ts.Recipe, "positions"), (ts.Stage, "per"), (ts.Stage, "rest"), (ts.Stage, "newlines")):
        for choice in model.model_fields[field].annotation.__args__:
            assert f"`{choice}`" in BUDGETS or f"`{field}: {choice}`" in BUDGETS, choice


def _written(command):
    return command.__name__.replace("_", "-")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_every_command_and_its_options(command):
    assert f"tokensieve {_written(command)}" in {" ".join(cell.split()[:2]) for cell in first_cells(REFERENCE)}
    parameters = [p for a in command.__annotations__.values() for p in getattr(a, "__metadata__", ())]
    options = [option for p in parameters for option in p.param_decls or () if option.startswith("--")]
    assert [option for option in options if option not in REFERENCE] == []


def test_every_command_is_run_on_some_page():
    run = "\n".join(block.code for page in PAGES for block in blocks(page) if block.language == "bash")
    # A demo takes a minute; the tests of the command line run it.
    assert [_written(c) for c in COMMANDS if f"tokensieve {_written(c)}" not in run] == ["demo"]


def test_the_tree_of_errors_is_whole():
    drawn = re.findall(r"^[│├└─ ]*(\w+Error)", errors.__doc__.split("```")[1], re.MULTILINE)
    defined = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == defined
    assert "::: tokensieve.errors\n" in REFERENCE
