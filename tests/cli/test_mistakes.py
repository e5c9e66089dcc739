"""Mistakes that people make on the command line: each message names the place and the cure, in one paragraph."""

from pathlib import Path

import pytest

from .conftest import PHOTO

STUDY = "name: s\nmodels: [world-llava]\nrecipes: [gsp]\nkeep: [64]\nlimit: 2\ntasks: [world]\n"
ONE_STAGE = "stages:\n- {at: decoder.0, select: gsp, keep: 4}\n"
FILES = {
    "study.yaml": STUDY,
    "lava.yaml": STUDY.replace("world-llava", "world-lava"),
    "recipe.yaml": ONE_STAGE,
    "device.yaml": STUDY.replace("world-llava", "{path: world-llava, device: gpu}"),
    "early.yaml": ONE_STAGE.replace("gsp", "fastv"),
}
DRY = ("compare", "study.yaml", "--out", "run", "--dry-run")
ASK = ("--image", "none.png", "--prompt", "Why?")

# The command, its exit code, and what the message says.
SAID = [
    ((*DRY, "--set", "limt=3"), 1, "a study has no key 'limt'"),
    ((*DRY, "--set", "limt=3"), 1, "Did you mean 'limit'?  (--set limt=3)"),
    ((*DRY, "--set", "limit=many"), 1, "limit is 'many': write a whole number  (--set limit=many)"),
    ((*DRY, "--set", "limit"), 1, "'limit' is no setting; write PATH=VALUE, such as keep=64,128"),
    ((*DRY, "--set", "keep=abc"), 1, "a budget is a count (64)"),
    ((*DRY, "--set", "keep=abc"), 1, "(--set keep=abc)"),
    ((*DRY, "--set", "keep=[64"), 1, "a bracket { or [ is not closed, or a comma is missing  (--set keep=[64"),
    ((*DRY, "--set", "models=world-lava"), 1, "Did you mean 'world-llava'?  (--set models=world-lava)"),
    ((*DRY, "--set", "recipes=gps"), 1, "Did you mean 'gsp'?  (--set recipes=gps)"),
    ((*DRY, "--set", "tasks.world.pictres=3"), 1, "Did you mean 'pictures'?  (--set tasks.world.pictres=3)"),
    ((*DRY, "--set", "tasks.word.pictures=3"), 1, "tasks has no entry 'word'; it has world"),
    ((*DRY, "--set", "controls.invertd=3"), 1, "Did you mean 'inverted'?  (--set controls.invertd=3)"),
    (("demo", "--set", "limt=3"), 1, "Did you mean 'limit'?  (--set limt=3)"),
    (("demo", "--set", "limit=many"), 1, "write a whole number  (--set limit=many)"),
    (("compare", "lava.yaml", "--out", "run", "--dry-run"), 1, "Did you mean 'world-llava'?  (lava.yaml:2)"),
    (("compare", "recipe.yaml", "--out", "run"), 1, "this is a recipe: tokensieve check reviews it"),
    (("compare", "recipe.yaml", "--out", "run"), 1, "(recipe.yaml:1)"),
    (("compare", "script", "--out", "run"), 1, "'script' is a recipe, which a study names under recipes"),
    (("compare", "none.yaml", "--out", "run"), 1, "there is no study none.yaml; name a YAML file of models"),
    (("compare", ".", "--out", "run"), 1, ". is a folder: name a file in it, such as "),
    (("check", "study.yaml"), 1, "This is a study: tokensieve compare runs it.  (study.yaml:2)"),
    (("run", "study.yaml", "--model", "world-llava", *ASK), 1, "This is a study: tokensieve compare runs it."),
    (("check", "."), 1, ". is a folder: name a file in it, such as "),
    (("check", "scirpt"), 1, "Did you mean 'script'?"),
    (("check", "gsp & qcsp"), 1, "needs a budget: keep=64, or --keep 64 in a command"),
    (("check", "script", "--model", "world-lava"), 1, "Did you mean 'world-llava'?"),
    (
        ("run", "script", "--model", "world-lava", "--image", PHOTO, "--prompt", "Why?"),
        1,
        "Did you mean 'world-llava'?",
    ),
    (("explain", "script", "--model", "world-lava"), 1, "Did you mean 'world-llava'?"),
    (("recommend", "--model", "world-lava"), 1, "Did you mean 'world-llava'?"),
    *(
        ((*command, "--model", name), 1, cure)
        for command in (
            ("check", "gsp"),
            ("explain", "gsp"),
            ("cost", "gsp"),
            ("recommend",),
            ("bench", "gsp"),
            ("run", "gsp", "--image", PHOTO, "--prompt", "Why?"),
            ("show", "gsp", "--image", PHOTO, "--out", "run"),
            ("export", "gsp", "--image", PHOTO, "--prompt", "Why?", "--to", "torch", "--out", "x.pt2"),
        )
        for name, cure in (
            ("world-lava", "Did you mean 'world-llava'?"),
            ("", "--model is empty; --model takes a folder written by save_pretrained"),
            ("study.yaml", "study.yaml is a file; --model takes"),
            ("folder", "folder is no checkpoint: it has no config.json"),
        )
    ),
    (("check", "gsp", "--model", "owner/name"), 1, "to get one from the hub: hf download owner/name"),
    (("check", "gsp", "--model", "llava-1_5-7b"), 1, "a shape without weights; bench, explain and recommend take"),
    (("explain", "gsp", "--model", "lava-1_5-7b"), 1, "Did you mean 'llava-1_5-7b'?"),
    *(
        ((command, *recipe, "--model", "world-llava", *ASK[: 2 * asks], "--device", name), 1, cure)
        for command, recipe, asks in (("recommend", (), 0), ("bench", ("gsp",), 0), ("run", ("gsp",), 2))
        for name, cure in (
            ("gpu", "there is no device 'gpu'; this machine has cpu"),
            ("cude", "Did you mean 'cuda'?"),
            ("cuda0", "Did you mean 'cuda:0'?"),
            ("", "there is no device ''; this machine has cpu"),
            ("cuda:99", "the device 'cuda:99' cannot be used; this machine has cpu"),
        )
    ),
    (("compare", "device.yaml", "--out", "run"), 1, "Did you mean 'cuda'?  (device.yaml:2)"),
    ((*DRY, "--set", "models.0.device=cude"), 1, "Did you mean 'cuda'?  (--set models.0.device=cude)"),
    (("cost", "script", "--geometry", "world-llava"), 2, "is a checkpoint, and no geometry: say --model world-llava"),
    (("cost", "script", "--geometry", "llava-1.5-7b"), 1, "Did you mean 'llava-1_5-7b'?"),
    (("check", "script", "--keep", "-4"), 2, "keep '-4' cannot be read: a budget is a count (64)"),
    (("check", "script", "--keep=-4"), 2, "keep '-4' cannot be read: a budget is a count (64)"),
    (("check", "script", "--keep", "64,32"), 1, "'script' has 1 stage (decoder.0), so keep takes 1 budget, not 2"),
    (("run", "early.yaml", "--model", "world-llava", "--image", PHOTO, "--prompt", "Why?"), 1, "(early.yaml:2)"),
    (("report", "folder"), 1, "it has no study.yaml. `tokensieve compare STUDY --out DIR` makes one"),
    (("report", "none"), 1, "it has no study.yaml. `tokensieve compare STUDY --out DIR` makes one"),
    (("report", "study.yaml"), 1, "it has no study.yaml. `tokensieve compare STUDY --out DIR` makes one"),
    (("plugins", "gps"), 1, "Did you mean 'gsp'?"),
    (("check", "script", "--plugin", "none.py"), 1, "a plugin is a file of Python, or a folder"),
]
# Of those that typer refuses, with what is said in its box.
USAGE = [
    (("chek", "script"), "Did you mean 'check'"),
    (("check", "script", "--kep", "4"), "No such option: --kep (Possible options: --help, --keep, --set)"),
    (("schema", "--output", "x"), "No such option: --output (Possible options: --out)"),
    (("check", "script", "--keep"), "Option '--keep' requires an argument"),
    (("check", "script", "gsp"), "Got unexpected extra argument(s) (gsp)"),
    (("check",), "Missing argument 'RECIPE'"),
    (("run", "script", "--model", "world-llava", "--prompt", "Why?"), "Missing option '--image'"),
    (("new", "stratgy", "x"), "'strategy', 'composer', 'adapter', 'task', 'recipe'"),
]


@pytest.fixture
def written(cli):
    for name, text in FILES.items():
        Path(name).write_text(text, encoding="utf-8")
    Path("folder").mkdir()
    return cli


@pytest.mark.parametrize(("command", "code", "cure"), SAID)
def test_a_mistake_on_the_command_line(written, command, code, cure):
    result = written(*command)
    assert result.exit_code == code, result.output
    assert cure in result.stderr
    assert result.stderr.count("\n") == 1
    assert not [word for word in ("pydantic", "Traceback", "unexpected: ") if word in result.output]
    assert not Path("run").exists()


@pytest.mark.parametrize(("command", "cure"), USAGE)
def test_a_command_line_that_cannot_be_read(written, command, cure):
    result = written(*command)
    assert result.exit_code == 2
    assert cure in " ".join(result.stderr.replace("│", " ").split())


def test_a_budget_beyond_the_tokens_of_a_picture(written):
    result = written("check", "script", "--keep", "99999", "--model", "world-llava")
    assert result.exit_code == 1
    assert "warning at decoder.0: keeps 99999 of the 144 visual tokens that a picture has there" in result.stdout
