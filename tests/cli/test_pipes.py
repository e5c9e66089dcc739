"""A reader that goes away (`tokensieve plugins | head -1`) ends a command quietly."""

import os
import subprocess
import sys

import pytest
from tests.cli.conftest import PHOTO, QUESTION

from tokensieve.cli import console

# Written by rich, by one long write, and nothing of it to stdout.
LIGHT = [("plugins",), ("schema",), ("check", "gps")]
ASK = ("--model", "world-llava", "--image", str(PHOTO), "--prompt", QUESTION, "--keep", "16")
MORE = [
    ("adapters",),
    ("check", "script"),
    ("cost", "script", "--geometry", "llava-1_5-7b"),
    ("--help",),
    ("--version",),
    ("run", "--help"),
    ("run", "script", *ASK),
    ("show", "script", "random", *ASK, "--out", "pictures"),
    ("check", "script", "--model", "world-llava"),
    ("compare", "study.yaml", "--out", "run"),
]
STUDY = """\
models: [world-llava]
recipes: [uniform]
keep: [16]
tasks: [world]
limit: 4
"""


def piped(arguments, folder, also=False):
    """Run a command whose stdout nobody reads, and its stderr likewise if `also`."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return subprocess.run(
            [sys.executable, "-m", "tokensieve", *arguments],
            stdout=writing,
            stderr=writing if also else subprocess.PIPE,
            cwd=folder,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            check=False,
            timeout=200,
        )
    finally:
        os.close(writing)


# A process takes four seconds; one of each way to write every day.
@pytest.mark.parametrize(
    "arguments", [LIGHT[0], LIGHT[2], pytest.param(LIGHT[1], marks=pytest.mark.nightly)], ids=" ".join
)
def test_a_command_ends_quietly(arguments, tmp_path):
    result = piped(arguments, tmp_path)
    if arguments == ("check", "gps"):
        assert result.stderr.startswith(b"UnknownRecipeError: ")
    else:
        assert result.stderr == b""
    assert result.returncode == 1


@pytest.mark.nightly
@pytest.mark.parametrize("arguments", MORE, ids=" ".join)
def test_every_command_ends_quietly(arguments, tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY)
    result = piped(arguments, tmp_path)
    assert b"BrokenPipe" not in result.stderr
    assert b"Traceback" not in result.stderr
    assert b"Exception ignored" not in result.stderr
    assert result.returncode == 1


@pytest.mark.nightly
def test_nobody_reads_errors_either(tmp_path):
    assert piped(("check", "gps"), tmp_path, also=True).returncode == 1


def test_a_broken_pipe_to_somebody_else_is_an_error(cli, monkeypatch):
    """A worker that died is no reader of the output: that is said."""
    assert not console.reader_is_gone()

    def broken(plugin):
        raise BrokenPipeError("a worker is gone")

    monkeypatch.setattr("tokensieve.cli.plugins.open_registry", broken)
    result = cli("plugins")
    assert result.exit_code == 1
    assert result.stderr.startswith("BrokenPipeError: a worker is gone")
