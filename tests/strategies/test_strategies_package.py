"""The package as a plugin: what it registers, and how its files look."""

import ast
import importlib
import inspect
import pkgutil
import re
import statistics
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

import tokensieve_strategies
from tokensieve import Recipe, Registry, Replay, Strategy
from tokensieve.errors import SettingError
from tokensieve_strategies import STRATEGIES

FOLDER = Path(tokensieve_strategies.__file__).parent
MODULES = sorted(m.name for m in pkgutil.iter_modules([str(FOLDER)]) if not m.name.startswith("_"))
RECIPES = sorted(FOLDER.joinpath("recipes").glob("*.yaml"))
KEYS = ("name", "title", "paper", "positions", "strategies", "stages", "budgets")
STAGE_KEYS = {"at", "select", "keep", "r", "per", "rest", "by", "newlines", "demand", "over"}
# It is the last row of attention, as in FastV, at several depths.
OF_ANOTHER_PAPER = {"pyramiddrop": "https://arxiv.org/abs/2410.17247"}


@pytest.fixture
def registry():
    registry = Registry()
    registry.register(tokensieve_strategies, "strategies")
    return registry


def test_every_module_of_the_folder_is_registered(registry):
    own = {name for name, cls in registry.strategies.items() if cls.__module__.startswith("tokensieve_strategies.")}
    assert own == set(MODULES)
    for name in MODULES:
        assert registry.strategy(name).__module__ == f"tokensieve_strategies.{name}"
    assert set(registry.strategies.values()) == {*STRATEGIES, Replay}
    assert {"fastv", "gsp", "norm", "qcsp", "random", "tome", "uniform"} <= set(MODULES)


def test_no_module_defines_a_strategy_that_is_not_registered():
    for name in MODULES:
        module = importlib.import_module(f"tokensieve_strategies.{name}")
        defined = [
            cls
            for cls in vars(module).values()
            if inspect.isclass(cls) and issubclass(cls, Strategy) and cls.__module__ == module.__name__
        ]
        assert [cls in STRATEGIES for cls in defined] == [True]


def test_a_file_holds_a_method_and_no_more():
    lengths = {name: len((FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()) for name in MODULES}
    assert {name: n for name, n in lengths.items() if n > 200} == {}
    assert statistics.median(lengths.values()) <= 80


def test_adding_a_strategy_takes_one_line():
    source = (FOLDER / "__init__.py").read_text(encoding="utf-8")
    for name in MODULES:
        assert len(re.findall(rf"\btokensieve_strategies\.{name}\b", source)) == 1
    for cls in STRATEGIES:
        assert sum(bool(re.search(rf"\b{cls.__name__}\b", line)) for line in source.splitlines()) == 1


@pytest.mark.parametrize("cls", STRATEGIES, ids=lambda cls: cls.__name__)
def test_a_strategy_says_what_it_is(cls):
    doc = inspect.getdoc(cls)
    assert doc
    assert doc.split("\n\n")[0].endswith(".")
    assert cls.paper is None or cls.paper.startswith("https://")
    assert "Paper:" in doc if cls.paper else "without a paper" in doc
    for field in cls.model_fields:
        assert f"{field}:" in doc.split("Attributes:")[1]
    assert cls.examples
    assert all(isinstance(cls(**example), cls) for example in cls.examples)
    with pytest.raises(SettingError):
        cls(no_such_setting=1)


@pytest.mark.parametrize("name", MODULES)
def test_a_method_knows_no_model_library_and_no_other_method(name):
    tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    imported = {
        part
        for node in ast.walk(tree)
        for part in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    roots = {part.split(".")[0] for part in imported}
    assert roots - sys.stdlib_module_names <= {"pydantic", "tokensieve", "tokensieve_strategies", "torch"}
    assert all(part.startswith("tokensieve_strategies._maths.") for part in imported if "strategies" in part)


def test_every_recipe_is_registered(registry):
    assert set(registry.recipes) == {path.stem for path in RECIPES}
    controls, methods = {"norm", "random", "uniform"}, {"gsp", "qcsp", "script", "script-merge", "tome"}
    published = {"cdpruner", "dart", "divprune", "fastervlm", "fastv", "feather", "pyramiddrop", "sparsevlm", "trim"}
    comparisons = {"script-fill", "script-head", "script-union"}
    ours = {"divprune-fastv", "gsp-cls", "gsp-fastv", "two-of-three"}
    assert controls | methods | published | comparisons | ours <= set(registry.recipes)
    assert files("tokensieve_strategies").joinpath("recipes", "script.yaml").is_file()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_plain_and_says_its_protocol(path, registry):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    comment = "".join(line for line in text.splitlines() if line.startswith("#"))
    assert "Protocol." in comment
    assert "budget" in comment
    assert "position ids" in comment
    body = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    assert not re.search(r"[*!\t#]|[:-] *[|>]", body), "no alias, tag, block scalar or tab"
    recipe = yaml.safe_load(text)
    assert recipe["name"] == path.stem
    assert list(recipe) == [key for key in KEYS if key in recipe]
    for stage in recipe["stages"]:
        assert set(stage) <= STAGE_KEYS
    read = Recipe.loads(text, registry)
    assert set(read.strategies) == set(recipe["strategies"])
    assert not set(read.strategies) & set(registry.composers)
    papers = set()
    for operand in recipe["strategies"].values():
        cls = registry.strategy(operand.pop("use"))
        cls(**operand)
        papers |= {cls.paper} - {None}
    if len(papers) == 1:
        assert recipe["paper"] == OF_ANOTHER_PAPER.get(path.stem, papers.pop())
        assert "Deviations from the paper" in comment
