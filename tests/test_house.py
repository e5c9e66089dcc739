"""What holds for the whole package: what is public, and how values are made."""

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest
from pydantic import BaseModel

import tokensieve as ts
import tokensieve.testing
from tokensieve.composers.settings import Value
from tokensieve.plugins import hookspecs, renamed

PACKAGES = ("tokensieve", "tokensieve_strategies", "tokensieve_adapters")
# They import lmms-eval and vLLM, which have environments of their own.
ELSEWHERE = {
    *(f"tokensieve.lmms.{name}" for name in ("harness", "model", "wrap")),
    *(
        f"tokensieve.vllm.{name}"
        for name in ("llava", "llava_next", "mrope", "qwen2_5_vl", "qwen2_vl", "qwen3_vl", "requests")
    ),
}


def modules():
    for package in PACKAGES:
        root = importlib.import_module(package)
        yield root
        for found in pkgutil.walk_packages(root.__path__, f"{package}."):
            if not found.name.endswith("__main__") and found.name not in ELSEWHERE:
                yield importlib.import_module(found.name)


def classes():
    for module in modules():
        for value in vars(module).values():
            if inspect.isclass(value) and value.__module__ == module.__name__:
                yield value


@pytest.mark.parametrize("module", [ts, tokensieve.testing], ids=lambda module: module.__name__)
def test_what_is_public_is_sorted_there_and_documented(module):
    names = module.__all__
    assert names == sorted(set(names))
    for name in names:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, name


def test_nothing_else_looks_public():
    here = {name for name in dir(ts) if not name.startswith("_") and not inspect.ismodule(getattr(ts, name))}
    assert here == set(ts.__all__)


def test_names_are_imported_from_where_type_checkers_read_them():
    tree = ast.parse(Path(ts.__file__).read_text(encoding="utf-8"))
    (checked,) = (node for node in tree.body if isinstance(node, ast.If) and getattr(node.test, "id", "")[:1] == "_")
    imports = [node for node in checked.body if isinstance(node, ast.ImportFrom)]
    assert {alias.name: node.module for node in imports for alias in node.names} == ts._HOMES
    assert set(ts._HOMES) == set(ts.__all__)


def test_modules_are_there_without_an_import_of_their_own():
    assert inspect.ismodule(ts.composers)
    with pytest.raises(AttributeError, match="module 'tokensieve' has no attribute 'nothing'"):
        _ = ts.nothing


@pytest.mark.parametrize(
    ("old", "new"), [("Sights", "VisionCache"), ("Words", "PromptText"), ("sharing", "share_vision")]
)
def test_an_old_name_says_the_new_one(old, new):
    with pytest.raises(AttributeError, match=f"tokensieve.{old} is called tokensieve.{new} now"):
        getattr(ts, old)
    assert hasattr(ts, new)


def test_old_names_of_adapters_lead_to_names_that_there_are():
    for base, names in ((ts.Adapter, renamed.ADAPTER), (ts.Decoder, renamed.DECODER), (ts.Encoder, renamed.ENCODER)):
        for old, new in names.items():
            assert hasattr(base, new), new
            assert not hasattr(base, old), old


def test_every_model_is_frozen_and_forbids_what_it_does_not_know():
    models = [cls for cls in classes() if issubclass(cls, BaseModel)]
    assert len(models) > 10
    for model in models:
        assert model.model_config.get("frozen"), model
        assert model.model_config.get("extra") == "forbid", model


def test_mistakes_in_what_people_make_by_hand_are_told_in_our_words():
    # A line of a file is read with its number by its task.
    made = [cls for cls in classes() if issubclass(cls, BaseModel) and cls.__name__ != "Line"]
    for model in made:
        if not any(part.startswith("_") for part in (*model.__module__.split("."), model.__name__)):
            assert issubclass(model, Value), model


def test_every_strategy_is_abstract_or_can_be_made_from_its_examples():
    strategies = [cls for cls in classes() if issubclass(cls, ts.Strategy)]
    assert len(strategies) > 8
    for strategy in strategies:
        if not inspect.isabstract(strategy):
            for example in strategy.examples:
                assert strategy(**example).name.isidentifier()


def test_every_hook_is_documented_and_calls_no_one_by_default():
    hooks = [value for name, value in vars(hookspecs).items() if hasattr(value, "tokensieve_spec")]
    assert {hook.__name__ for hook in hooks} >= {"register_strategies", "register_adapters", "stage_settled"}
    for hook in hooks:
        assert hook.__doc__
        assert hook(**dict.fromkeys(inspect.signature(hook).parameters)) is None
