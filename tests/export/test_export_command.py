"""The command `export`, on a shipped model."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tokensieve import Exported, Recipe, Registry
from tokensieve.cli import app

SCENE = Path(__file__).parents[2] / "docs" / "assets" / "scene.png"
QUESTION = "what color is the cross?"


def told(*arguments):
    result = CliRunner().invoke(app, ["export", *map(str, arguments)], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_the_command_hands_on_what_it_was_told_and_says_what_was_compared(tmp_path, monkeypatch):
    # The page on exported prefills runs the command whole.
    given = {}

    def instead(model, recipe, inputs, **options):
        given.update(options, recipe=recipe, shape=list(inputs["pixel_values"].shape), dtype=model.dtype)
        layout = {"kept": 16, "visual_tokens": 144, "input_ids": [0] * 151}
        compared = {"examples": 2, "largest_difference_of_a_logit": 2.4e-6}
        return Exported(None, {"layout": layout, "compared": compared}, (options["out"],))

    monkeypatch.setattr("tokensieve.exporting.export.export", instead)
    file = tmp_path / "norm.pt2"
    model, prompt = ("--model", "world-llava"), ("--prompt", QUESTION)
    size = ("--image-size", "64x80", "--logits", "all")
    code, output = told("norm", *model, "--keep", 16, "--to", "torch", "--out", file, *size, *prompt)
    assert code == 0, output
    said = (
        "16 of 144 visual tokens in a prompt of 151; on 2 pictures the tokens that prune keeps, and its logits to 2e-06"
    )
    assert output.splitlines()[:2] == [said, str(file)]
    assert given.pop("recipe").hash() == Recipe.load("norm", keep=16).hash()
    assert isinstance(given.pop("registry"), Registry)
    assert given == {"to": "torch", "out": file, "logits": "all", "shape": [1, 3, 96, 96], "dtype": torch.float32}


@pytest.mark.parametrize(
    ("picture", "code", "said"),
    [
        ((), 2, "give --image FILE or --image-size HxW"),
        (("--image", SCENE, "--image-size", "96x96"), 2, "give --image FILE or --image-size HxW"),
        (("--image-size", "96"), 1, "height and width in pixels, such as 336x448, not '96'"),
        (("--image-size", "96x96"), 1, r"ends in .onnx, and norm.pt2 does not"),
    ],
)
def test_a_wrong_command_line_is_refused_before_anything_is_loaded(tmp_path, picture, code, said):
    line = ("--model", "nowhere", "--keep", 16, "--to", "onnx", "--out", tmp_path / "norm.pt2", "--prompt", QUESTION)
    ended, output = told("norm", *line, *picture)
    assert ended == code
    assert said in " ".join(output.replace("│", " ").split())
