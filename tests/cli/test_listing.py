"""`plugins`, `check` and `schema`: what can be known without a model."""

import json
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path

import pytest
from PIL import Image
from tests.cli.conftest import PHOTO

from tokensieve import Registry, Scorer, Tokens, default_registry, hookimpl
from tokensieve.cli.app import COMMANDS, command_function
from tokensieve.recipes.schema import schema
from tokensieve.tasks import Sample, Task


class Point:
    """An entry point, as far as the registry looks at it."""

    dist = None

    def __init__(self, name, plugin):
        self.name, self.value, self._plugin = name, f"{name}_package", plugin

    def load(self):
        if isinstance(self._plugin, Exception):
            raise self._plugin
        return self._plugin


class Loud(Scorer):
    """Keeps the [loud] tokens.

    And says nothing else.
    """

    name = "loud"
    examples = ()
    volume: float

    def score(self, tokens: Tokens):
        return tokens.features.sum(dim=-1)


class LoudPlugin:
    @hookimpl
    def register_strategies(self, registry: Registry) -> None:
        registry.add_strategy(Loud)


@pytest.fixture
def install(monkeypatch):
    """Pretend that plugins are installed beside the real ones."""
    real = metadata.entry_points

    def pretend(**plugins):
        points = [Point(name, plugin) for name, plugin in plugins.items()]
        monkeypatch.setattr(
            "tokensieve.plugins.registry.metadata.entry_points", lambda group: [*real(group=group), *points]
        )

    return pretend


def test_plugins_lists_everything(cli):
    result = cli("plugins")
    assert result.exit_code == 0, result.output
    registry = default_registry()
    brought = (registry.strategies, registry.composers, registry.recipes, registry.adapters)
    for table in (*brought, registry.tasks, registry.checkpoints):
        for name in table:
            assert name in result.stdout
    for strategy in registry.strategies.values():
        assert strategy.paper is None or strategy.paper in result.stdout
    assert f"tokensieve {metadata.version('tokensieve')}" in result.stdout
    assert "decoder_attention" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_a_plugin_that_does_not_load_is_named_with_its_reason(cli, install):
    install(acme=ModuleNotFoundError("No module named 'acme_ops' [or so]"))
    result = cli("plugins")
    assert result.exit_code == 1
    line = (
        "error: the plugin 'acme' (acme_package) did not load: ModuleNotFoundError: No module named 'acme_ops' [or so]"
    )
    assert line in result.stdout.splitlines()
    # The others are there all the same.
    assert "script-merge" in result.stdout
    unknown = cli("check", "gps")
    assert "The plugin 'acme' did not load (ModuleNotFoundError: No module named 'acme_ops'" in unknown.stderr


def test_a_strangers_plugin_is_listed_like_ours(cli, install):
    install(noise=LoudPlugin())
    result = cli("plugins")
    assert result.exit_code == 0, result.output
    assert "1 strategy" in result.stdout
    # Brackets are no markup, and a strategy without defaults is no obstacle.
    assert "Keeps the [loud] tokens." in result.stdout
    assert "by its settings" in result.stdout


def test_all_that_is_known_of_a_name(cli, install):
    install(noise=LoudPlugin())
    assert "composer intersection, from tokensieve" in cli("plugins", "&").stdout
    result = cli("plugins", "gsp")
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.replace("│", " ").split())
    # A strategy and a recipe have this name.
    for part in (
        "strategy gsp, from strategies (tokensieve",
        "recipe gsp, from strategies (tokensieve",
        "needs features",
        "can stand at encoder.K, decoder.0, decoder.1 and deeper",
        "time O(n² d)",
        "gsp-fastv, script",
        "quantile number from 0 to 1 0.5",
        "GSP, the graph half of Script: tokens that resemble the fewest others.",
    ):
        assert part in text, part
    assert max(map(len, result.stdout.splitlines())) <= 100
    cards = json.loads(cli("plugins", "gsp", "--json").stdout)
    assert [card["kind"] for card in cards] == ["strategy", "recipe"]
    assert cards[0]["parameters"][1] == {
        "name": "quantile",
        "values": "number from 0 to 1",
        "default": "0.5",
        "meaning": "which part of a group's similarities lies below the threshold.",
    }
    assert "volume │ number │ required │ not described by its author" in " ".join(cli("plugins", "loud").stdout.split())
    unknown = cli("plugins", "gps")
    assert unknown.exit_code == 1
    assert "nothing is named 'gps'" in unknown.stderr
    assert "Did you mean 'gsp'?" in unknown.stderr


def test_plugins_as_json(cli, install):
    install(acme=ModuleNotFoundError("No module named 'acme_ops'"))
    result = cli("plugins", "--json")
    assert result.exit_code == 1
    listed = json.loads(result.stdout)
    assert "gsp" in listed["strategies"]
    assert [one["error"] for one in listed["plugins"] if one["name"] == "acme"] == [
        "ModuleNotFoundError: No module named 'acme_ops'"
    ]


class Riddles(Task):
    """Asks [riddles].

    And knows the answers.
    """

    name = "riddles"
    metric: str = "solved"

    def samples(self):
        return [Sample("1", "?", "1", ("!",))]

    def picture(self, sample):
        return Image.new("RGB", (1, 1))

    def grade(self, sample, answer, unpruned):
        return {"solved": 0.0}


def test_tasks_and_checkpoints_are_listed(cli, install, tmp_path):
    for name in ("sphinx", "partner"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")

    class Plugin:
        @hookimpl
        def register_tasks(self, registry: Registry) -> None:
            registry.add_task(Riddles)
            registry.add_checkpoint("sphinx-small", tmp_path / "sphinx")
            registry.add_checkpoint("sphinx-large", tmp_path / "sphinx", tmp_path / "partner")

    before = default_registry()
    install(sphinx=Plugin())
    result = cli("plugins")
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    assert "1 task, 2 checkpoints" in text
    assert f"Tasks ({len(before.tasks) + 1})" in text
    assert "riddles │ solved │ Asks [riddles]. │" in text
    assert f"Checkpoints ({len(before.checkpoints) + 2})" in text
    assert "│ sphinx-large │ partner │" in text
    assert "│ sphinx-small │ none │" in text


def test_two_plugins_of_one_name_are_reported(cli, install):
    class Imposter(LoudPlugin):
        pass

    install(noise=LoudPlugin(), other=Imposter())
    result = cli("plugins")
    assert result.exit_code == 1
    line = (
        "error: not added: two plugins bring a strategy named 'loud': noise (noise_package) and other (other_package); "
        "neither can be used: uninstall one of them, or rename it"
    )
    assert line in result.stdout.splitlines()
    assert "script-merge" in result.stdout
    refused = cli("check", "loud & gsp", "--keep", 3)
    assert refused.exit_code == 1
    assert "two plugins bring a strategy named 'loud'" in refused.stderr


# check


def test_the_recipe_that_shows_a_collapse_is_not_fine(cli):
    result = cli("check", "script-head")
    assert result.exit_code == 1
    assert "the formula collapses: '(graph[64] & query[64])' always keeps what 'query' alone keeps" in result.stdout


def test_check_lists_a_recipes_own_budgets(cli):
    assert "budgets    192, 128, 96, 64" in cli("check", "sparsevlm").stdout
    assert "budgets" not in cli("check", "pyramiddrop").stdout


@pytest.mark.parametrize("name", sorted(set(default_registry().recipes) - {"script-head"}))
def test_every_other_shipped_recipe_is_fine(cli, name):
    result = cli("check", name)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert max(map(len, result.stdout.splitlines()[:-1])) <= 120


def test_check_shows_the_plan(cli, recipe):
    whole = """\
    name: planned
    strategies:
      graph: {use: gsp, tau: 0.25}
    stages:
      - {at: decoder.0, select: "graph[1/2] >> norm", keep: 1/9, newlines: keep}
      - {at: decoder.2, select: fastv, keep: 24, rest: merge, by: norm}
    """
    result = cli("check", recipe(whole=textwrap.dedent(whole)))
    assert result.exit_code in (0, 1)
    for part in (
        "planned",
        "graph[1/2] >> norm",
        "1/9 per image",
        "drop the rest",
        "keep newlines",
        "24 per image",
        "merge the rest",
        "ties by norm",
        "tau=0.25",
        "decoder_attention",
        "original",
    ):
        assert part in result.stdout


def test_a_warning_is_a_finding(cli, recipe):
    result = cli(
        "check", recipe(whole="stages:\n  - {at: decoder.0, select: 'gsp[64] & qcsp[64]', by: qcsp, keep: 64}\n")
    )
    assert result.exit_code == 1
    assert "warning at decoder.0: the formula collapses" in result.stdout
    assert "gsp[64] & qcsp[64]" in result.stdout
    assert "1 warning" in result.stdout.splitlines()[-1]


def test_a_note_is_fine(cli):
    result = cli("check", "qcsp")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "1 note"


def test_findings_come_worst_first(cli, recipe):
    result = cli("check", recipe("(gsp[4] & gsp[4]) | fastv", keep=4))
    lines = [line for line in result.stdout.splitlines() if " at decoder.0: " in line]
    assert result.exit_code == 1
    assert lines[0].startswith("error at decoder.0: 'fastv' needs decoder_attention")
    assert [line.split()[0] for line in lines] == sorted(line.split()[0] for line in lines)


def test_check_with_a_model_knows_its_sites(cli, checkpoint, recipe):
    result = cli("check", "gsp-fastv", "--model", checkpoint)
    assert result.exit_code == 0, result.output
    assert "LlavaForConditionalGeneration" in result.stdout
    for sites in ("encoder.0..2", "decoder.0", "decoder.1..3"):
        assert f"│ {sites} " in result.stdout
    result = cli("check", recipe(at="decoder.9"), "--model", checkpoint)
    assert result.exit_code == 1
    assert "error at decoder.9: llava has no such site; it offers decoder.0 ... decoder.3" in result.stdout
    assert result.stdout.splitlines()[-1] == "1 error"


def test_without_a_model_its_depth_is_not_known(cli, recipe):
    assert cli("check", recipe(at="decoder.9")).exit_code == 0


def test_check_with_a_model_reads_no_weights(cli, checkpoint):
    Path("m").mkdir()
    Path("m", "config.json").symlink_to(checkpoint / "config.json")
    assert cli("check", "script", "--model", "m").exit_code == 0


# schema


def test_schema(cli):
    result = cli("schema")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == schema()
    result = cli("schema", "--out", "schema.json")
    assert (result.exit_code, result.stdout) == (0, "schema.json\n")
    assert json.loads(Path("schema.json").read_text(encoding="utf-8")) == schema()


def test_version(cli):
    result = cli("--version")
    assert (result.exit_code, result.stdout) == (0, metadata.version("tokensieve") + "\n")


def test_help_says_what_exit_codes_mean(cli):
    result = cli("--help")
    assert result.exit_code == 0
    assert "2 a wrong command line" in " ".join(result.stdout.split())
    for command in ("plugins", "adapters", "check", "cost", "run", "show", "schema", "demo"):
        assert command in result.stdout
        assert cli(command, "--help").exit_code == 0


def test_what_needs_no_model_imports_no_model_library():
    code = f"""
    import sys
    from typer.testing import CliRunner
    from tokensieve.cli import app

    heavy = {{"transformers", "timm", "torchvision"}}
    for command, expected in (
        (["--help"], 0), (["run", "--help"], 0), (["plugins"], 0), (["schema"], 0), (["check", "script"], 0),
        (["run", "gps", "--model", "m", "--image", "i", "--prompt", "p"], 1),
        (["run", "script", "--model", "m", "--image", "i", "--prompt", "p"], 1),
        (["run", "script", "--model", "m", "--image", {str(PHOTO)!r}, "--prompt", "p"], 1),
        (["show", "script", "--model", "m", "--image", "i"], 1),
        (["check", "script", "--model", "m"], 1),
    ):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == expected, (command, result.output)
        assert not heavy & set(sys.modules), (command, heavy & set(sys.modules))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, timeout=300
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_help_and_the_version_need_not_even_torch():
    """What a command loads, in one process: first those that load little."""
    code = """
    import os, sys
    from typer.testing import CliRunner
    from tokensieve.cli import app

    heavy = {"torch", "numpy", "scipy", "pyarrow", "matplotlib", "PIL", "transformers", "timm"}
    typing = {"_TOKENSIEVE_COMPLETE": "complete_bash", "COMP_WORDS": "tokensieve sch", "COMP_CWORD": "1"}
    for command, expected, said, env in (
        (["--version"], 0, "", {}), (["--help"], 0, "schema", {}), ([], 2, "schema", {}),
        (["plugns"], 2, "Did you mean 'plugins'?", {}), (["--nothing"], 2, "--nothing", {}),
        ([], 0, "schema", typing),
    ):
        result = CliRunner().invoke(app, command, prog_name="tokensieve", env=env)
        assert result.exit_code == expected, (command, result.output)
        assert said in result.output, (command, result.output)
        assert not heavy & set(sys.modules), (command, heavy & set(sys.modules))
    # Strategies are torch's, so that what lists them has torch, but neither tables of results nor figures.
    for command in (["plugins"], ["plugins", "gsp"], ["schema"], ["check", "script"]):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, (command, result.output)
        loaded = heavy & set(sys.modules) - {"torch", "numpy", "PIL"}
        assert not loaded, (command, loaded)
    assert "torch" in sys.modules
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, timeout=300
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_every_command_is_listed_with_its_sentence(cli):
    text = " ".join(cli("--help").stdout.replace("│", " ").split())
    for name in COMMANDS:
        assert (command_function(name).__doc__ or "").splitlines()[0] in text
        assert Path(command_function(name).__code__.co_filename).stem == name.replace("-", "_")


def test_adapters_say_what_they_offer(cli):
    result = cli("adapters")
    assert result.exit_code == 0, result.output
    for name in default_registry().adapters:
        assert name in result.stdout.replace("\n", "")
    assert "decoder_attention" in result.stdout


@pytest.mark.parametrize(
    "command", [("check",), ("cost", "--geometry", "llava-1_5-7b")], ids=lambda command: command[0]
)
def test_a_formula_stands_for_a_recipe(cli, command):
    result = cli(*command, "gsp & qcsp", "--keep", "12")
    assert result.exit_code == 0, result.output
    assert "gsp & qcsp" in result.stdout
    assert "12" in result.stdout
    result = cli(*command, "gsp & qcsp")
    assert result.exit_code == 1
    assert "needs a budget" in result.stderr
