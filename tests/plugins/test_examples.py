"""`tokensieve new`, and `examples/`: what it writes, built as wheels, installed and tried as anybody's plugins are."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tokensieve.cli import app
from tokensieve.plugins.registry import default_registry

EXAMPLES = Path(__file__).parents[2] / "examples"
MADE = {
    "far-from-mean": ("strategy", "far_from_mean"),
    "majority": ("composer", "majority"),
    "vip-llava": ("adapter", "vip_llava"),
    "greys": ("task", "greys"),
    "agree-earliest": ("recipe", "agree-earliest"),
}
PIP = ("-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index")


def new(*words):
    return CliRunner().invoke(app, ["new", *map(str, words)])


def texts(folder):
    left_over = {"__pycache__", ".pytest_cache"}
    files = (file for file in folder.rglob("*") if file.is_file() and not left_over & set(file.parts))
    return {file.relative_to(folder).as_posix(): file.read_text(encoding="utf-8") for file in files}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the wheels of all examples."""
    target = tmp_path_factory.mktemp("installed")
    folders = [str(EXAMPLES / name) for name in MADE]
    subprocess.run(
        [sys.executable, *PIP, "--target", str(target), *folders], check=True, capture_output=True, text=True
    )
    return target


@pytest.mark.parametrize("folder", MADE)
def test_an_example_is_what_new_writes(folder, tmp_path):
    result = new(*MADE[folder], "--into", tmp_path)
    assert result.exit_code == 0, result.output
    assert texts(tmp_path / folder) == texts(EXAMPLES / folder)
    listed = result.stdout.split("\n\n")[0].splitlines()
    assert {Path(line).relative_to(tmp_path / folder).as_posix() for line in listed} == set(texts(tmp_path / folder))
    assert f"Next: cd {tmp_path / folder}; pip install -e '.[test]'; pytest; tokensieve plugins" in result.stdout


def test_there_is_an_example_of_each_kind():
    assert {file.name for file in EXAMPLES.iterdir() if file.is_dir()} == set(MADE)
    assert {kind for kind, _ in MADE.values()} == {"strategy", "composer", "adapter", "task", "recipe"}
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for folder, words in MADE.items():
        assert re.search(rf"\({folder}\) \| `tokensieve new {' '.join(words)}` \|", readme)


def test_a_strategy_is_under_25_lines():
    code = (EXAMPLES / "far-from-mean" / "far_from_mean" / "__init__.py").read_text(encoding="utf-8")
    assert len([line for line in code.splitlines() if line.strip()]) < 25


BROUGHT = """
import tokensieve as ts


def test_what_they_bring():
    registry = ts.default_registry()
    ours = ("tokensieve", "strategies (tokensieve ", "adapters (tokensieve ", "tasks (tokensieve ")
    tables = {
        "strategy": registry.strategies,
        "composer": registry.composers,
        "recipe": registry.recipes,
        "adapter": registry.adapters,
        "task": registry.tasks,
    }
    brought = {
        kind: sorted(name for name in table if not registry.origin(kind, name).startswith(ours))
        for kind, table in tables.items()
    }
    assert brought == {
        "strategy": ["far_from_mean"],
        "composer": ["majority"],
        "recipe": ["agree-earliest", "far_from_mean", "majority"],
        "adapter": ["vip_llava"],
        "task": ["greys"],
    }
    assert str(registry.recipes["far_from_mean"]) == "RECIPE"
    assert str(ts.Recipe.load("majority").stages[0].select).startswith("majority(QCSP(")
    assert [(one.error, one.left_out) for one in registry.plugins] == [(None, ())] * (3 + 5)
"""


def test_their_wheels_bring_what_they_should_and_pass_their_tests(installed, tmp_path):
    """All in one process, in a folder of its own. Of the kits one law each: the pages on plugins run them whole."""
    for folder in MADE:
        (tmp_path / folder).symlink_to(EXAMPLES / folder / "tests")
    recipe = installed / "far_from_mean" / "recipes" / "far_from_mean.yaml"
    (tmp_path / "test_brought.py").write_text(BROUGHT.replace("RECIPE", str(recipe)))
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    # What a plugin covers of this package, its own tests cover in half the time.
    environment.pop("COVERAGE_PROCESS_CONFIG", None)
    few = "brought or recipe or exact_count or unique_ids"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", few]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    # Two examples of a strategy and a composer each, a law of the task, three recipes, and what they bring.
    assert result.stdout.splitlines()[-1].startswith("9 passed")


WRONG = [
    ("strategy", "feature-norm", "made of small letters, digits and _, and begins with a letter; take feature_norm"),
    ("strategy", "FeatureNorm", "take feature_norm"),
    ("composer", "Most Of Them!", "take most_of_them"),
    ("task", "_greys", "take greys"),
    ("adapter", "2d", "an adapter cannot be named '2d'"),
    ("recipe", "agree.earliest", "small letters, digits and _ or -, and begins with a letter; take agree_earliest"),
    ("recipe", "agree--earliest", "take agree_earliest"),
    ("strategy", "", "cannot be named ''"),
    ("strategy", "größe", "cannot be named 'größe'"),
    ("strategy", "lambda", "which is a word of Python; take another, such as lambda_strategy"),
    ("strategy", "json", "a module of that name, which one of them would hide; take another, such as json_strategy"),
    ("recipe", "torch", "Python has a module of that name"),
    ("strategy", "tests", "which pytest or a build takes; take another, such as tests_strategy"),
    ("recipe", "conftest", "which pytest or a build takes"),
    ("strategy", "gsp", "there is a strategy named 'gsp' already, of strategies (tokensieve "),
    ("strategy", "quota", "there is a composer named 'quota' already, of tokensieve; choose another name"),
    ("composer", "gsp", "there is a strategy named 'gsp' already"),
    # Its recipe has the same name.
    ("composer", "script", "there is a recipe named 'script' already"),
    ("recipe", "gsp-fastv", "there is a recipe named 'gsp-fastv' already"),
    ("adapter", "llava", "there is an adapter named 'llava' already"),
    ("task", "world", "there is a task named 'world' already"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "name", "said"), WRONG, ids=[f"{kind}-{name}" for kind, name, _ in WRONG])
def test_a_name_that_will_not_do(kind, name, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = new(kind, name)
    assert result.exit_code == 1
    assert result.stderr.startswith("RefusedError: ")
    assert said in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "feature-norm").mkdir()
    result = new("strategy", "feature_norm", "--into", tmp_path)
    assert result.exit_code == 1
    assert (
        f"there is a folder {tmp_path / 'feature-norm'} already; choose another name, or another place" in result.stderr
    )
    assert list((tmp_path / "feature-norm").iterdir()) == []


def test_a_kind_that_there_is_not():
    result = new("adaptor", "mine")
    assert result.exit_code == 2
    assert "'strategy', 'composer', 'adapter', 'task', 'recipe'" in " ".join(result.stderr.replace("│", "").split())


def test_what_it_writes_is_known_to_a_command_that_is_given_the_folder(tmp_path):
    """An author can try a plugin before installing it."""
    assert new("strategy", "filed_feature_norm", "--into", tmp_path).exit_code == 0
    package = tmp_path / "filed-feature-norm" / "filed_feature_norm"
    try:
        result = CliRunner().invoke(app, ["check", "filed_feature_norm", "--plugin", str(package)])
    finally:
        sys.modules.pop("filed_feature_norm", None)
    assert result.exit_code == 0, result.output
    assert "filed_feature_norm" not in default_registry().strategies
