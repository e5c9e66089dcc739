"""`--plugin FILE.py`: what is not installed, in every command that names recipes."""

import sys
from importlib import metadata

import pytest

from tokensieve import default_registry
from tokensieve.cli.app import COMMANDS
from tokensieve.study.spec.plugins import register_plugins, with_absolute_paths
from tokensieve.study.spec.study import Study

PLUGIN = '''\
from tokensieve import Registry, Scorer, hookimpl

from {neighbour} import exponent


class {cls}(Scorer):
    """Keep the tokens with the largest features."""

    name = "{name}"

    def score(self, tokens):
        return tokens.features.norm(exponent, dim=-1)


@hookimpl
def register_strategies(registry: Registry) -> None:
    registry.add_strategy({cls})
'''


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write files beside each other, and forget what is imported of them."""
    before = set(sys.modules)

    def written(name, text):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return file

    yield written
    for name in set(sys.modules) - before:
        if name.startswith("filed"):
            del sys.modules[name]


@pytest.fixture
def plugin(write):
    write("filed_neighbour.py", "exponent = 2.0\n")
    return write("filed_norm.py", PLUGIN.format(neighbour="filed_neighbour", cls="FiledNorm", name="filed_norm"))


def test_a_file_is_known_to_a_command(cli, plugin):
    path = list(sys.path)
    result = cli("check", "gsp & filed_norm", "--keep", 12, "--plugin", plugin)
    assert result.exit_code == 0, result.output
    assert sys.path == path
    result = cli("plugins", "--plugin", plugin)
    assert result.exit_code == 0, result.output
    assert "filed_norm" in result.stdout
    assert '"filed_norm"' in cli("schema", "--plugin", plugin).stdout
    # Nobody else knows it.
    assert "no strategy is named 'filed_norm'" in cli("check", "gsp & filed_norm", "--keep", 12).stderr


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"new", "report", "demo", "bridges", "serve-vllm"}))
def test_commands_that_take_it(cli, command):
    assert "--plugin" in cli(command, "--help").stdout


def test_a_folder_is_a_package(cli, write):
    write("filed/exponents.py", "exponent = 1.0\n")
    package = write(
        "filed/__init__.py", PLUGIN.format(neighbour="filed.exponents", cls="FiledNorm", name="filed_norm")
    ).parent
    # Given twice, also in two ways, it is one plugin.
    result = cli("check", "filed_norm", "--keep", 12, "--plugin", package, "--plugin", package / "__init__.py")
    assert result.exit_code == 0, result.output


STUDY = "models: [world-llava]\nrecipes: [filed_norm]\nkeep: 16\ntasks: [world]\nlimit: 2\nseeds: [0]\n"


def test_a_study_hands_it_to_its_workers(cli, plugin, tmp_path, monkeypatch):
    (tmp_path / "study.yaml").write_text(STUDY)
    studies = []
    monkeypatch.setattr("tokensieve.cli.studies.run_study", lambda study, *_: studies.append(study) or True)
    result = cli("compare", "study.yaml", "--out", "runs", "--plugin", plugin.name)
    assert result.exit_code == 0, result.output
    assert studies[0].plugins == (str(plugin),)
    # What a study's own list names may be a file, too.
    (tmp_path / "named.yaml").write_text(f"plugins: [./{plugin.name}]\n{STUDY}")
    for named in (studies[0].plugins, Study.load(tmp_path / "named.yaml").plugins):
        worker = default_registry()
        register_plugins(with_absolute_paths(named), worker)
        assert "filed_norm" in worker.strategies


@pytest.mark.nightly
def test_a_study_with_it_runs(cli, plugin, tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY)
    result = cli("compare", "study.yaml", "--out", "runs", "--plugin", plugin.name)
    assert result.exit_code == 0, result.output
    assert "failed" not in result.output


WRONG = {
    "nowhere.py": (None, "there is no file"),
    "filed.txt": ("", "is no .py file; a plugin is a file of Python, or a folder with an __init__.py"),
    "filed_error.py": ("1 / 0\n", "cannot be imported: ZeroDivisionError: division by zero"),
    "filed_exit.py": ("raise SystemExit(0)\n", "cannot be imported: SystemExit: 0"),
    "json.py": ("", "has the name of the module 'json', which Python has already, in "),
    "filed_hookless.py": (
        PLUGIN.split("@hookimpl")[0].format(neighbour="math", cls="Loose", name="loose").replace("exponent", "pi"),
        "implements no hook, so nothing of it is known; add a function with @hookimpl that adds what it defines. "
        "Hooks: register_strategies",
    ),
    "filed_twin.py": (
        PLUGIN.format(neighbour="math", cls="Gsp", name="gsp").replace("exponent", "pi"),
        f"two plugins bring a strategy named 'gsp': strategies (tokensieve {metadata.version('tokensieve')}) and "
        "filed_twin (",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_plugin(cli, write, name):
    text, said = WRONG[name]
    file = name if text is None else write(name, text)
    result = cli("check", "gsp", "--keep", 12, "--plugin", file)
    assert result.exit_code == 1
    assert result.stderr.startswith("PluginError: ")
    assert said in result.stderr
