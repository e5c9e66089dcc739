"""The command `export`, on a shipped model."""

import json
from pathlib import Path

import pytest
import torch
from tests.export.small import pruned
from typer.testing import CliRunner

from tokensieve import default_registry
from tokensieve.checkpoints.loading import load
from tokensieve.cli import app
from tokensieve.tasks.world import World

SCENE = Path(__file__).parents[2] / "docs" / "assets" / "scene.png"
QUESTION = "what color is the cross?"


def told(*arguments):
    result = CliRunner().invoke(app, ["export", *map(str, arguments)], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_the_file_keeps_what_prune_keeps_of_other_pictures(tmp_path):
    registry = default_registry()
    checkpoint = registry.checkpoint("world-llava")
    file = tmp_path / "norm.pt2"
    model, prompt = ("--model", "world-llava"), ("--prompt", QUESTION)
    code, output = told("norm", *model, "--keep", 16, "--to", "torch", "--out", file, "--image", SCENE, *prompt)
    assert code == 0, output
    assert "16 of 144 visual tokens in a prompt of 151; on 2 pictures the tokens that prune keeps" in output
    assert sorted(one.name for one in tmp_path.iterdir()) == ["norm.json", "norm.pt2"]
    about = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    assert about["model"] == {"class": "LlavaForConditionalGeneration", "family": "llava"}
    ready = load(checkpoint.folder, registry, (), "cpu")
    exported = torch.export.load(file).module()
    task, seen = World(), set()
    for number in range(0, 60, 15):
        given = ready.inputs(task.picture(task.samples()[number]), QUESTION)
        assert given["input_ids"][0].tolist() == about["layout"]["input_ids"]
        logits, kept = pruned(ready.model, given, "norm", keep=16)
        with torch.no_grad():
            found, ids = exported(given["input_ids"], given["pixel_values"])
        assert ids.tolist() == [kept]
        assert float((found - logits).abs().max()) < 1e-4
        seen.add(tuple(kept))
    assert len(seen) > 1


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
