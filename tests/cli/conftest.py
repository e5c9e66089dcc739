from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from tokensieve import default_registry
from tokensieve.checkpoints.loaded_model import LoadedModel
from tokensieve.checkpoints.loading import load, save_example
from tokensieve.cli import app

PHOTO = Path(__file__).parents[2] / "docs" / "assets" / "grace_hopper.jpg"
QUESTION = "Which flag is behind her?"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example checkpoint, made once."""
    folder = tmp_path_factory.mktemp("checkpoint")
    assert "RANDOM WEIGHTS" in save_example(default_registry(), folder, ())
    return folder


@pytest.fixture(scope="session")
def ready(checkpoint: Path) -> LoadedModel:
    return load(checkpoint, default_registry(), (), "cpu")


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    with Image.open(PHOTO) as opened:
        return opened.convert("RGB")


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """Run a command in an empty folder, on a terminal of 80 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Path]:
    """Write a recipe of one stage, or of YAML given whole."""

    def write(select: str = "gsp", at: str = "decoder.0", keep: object = 64, whole: str | None = None) -> Path:
        file = tmp_path / "written.yaml"
        text = f"name: written\nstages:\n  - at: {at}\n    select: {select}\n    keep: {keep}\n"
        file.write_text(text if whole is None else whole, encoding="utf-8")
        return file

    return write
