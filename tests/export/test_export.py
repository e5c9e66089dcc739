"""Exported prefills keep what `prune` keeps, also of pictures that they were not made with."""

import json
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from tests.engine.models import IMAGE
from tests.export.small import KEEP, PROMPT, inputs, pruned

import tokensieve as ts
from tokensieve.checkpoints.loading import load
from tokensieve.exporting.targets import INPUTS, import_openvino
from tokensieve.tasks.world import World


@torch.no_grad()
def differences(model, run, recipe, logits_to_keep=1, **options):
    """The largest difference of a logit on pictures and words that the graph was not made with; ids are equal."""
    largest, seen = 0.0, set()
    for seed in range(1, 5):
        given = inputs(model, seed, [1, 10 + seed, *[IMAGE] * 16, 20 + seed, 8, 30 + seed])
        logits, kept = pruned(model, given, recipe, logits_to_keep, **options)
        found, ids = run(*(given[name] for name in INPUTS))
        assert np.asarray(ids).tolist() == [kept]
        assert found.shape == logits.shape
        seen.add(tuple(kept))
        largest = max(largest, float(np.abs(np.asarray(found) - logits.numpy()).max()))
    return largest, len(seen)


def openvino_run(file):
    compiled = import_openvino().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(ids, pixels):
        found = compiled({"input_ids": ids.numpy(), "pixel_values": pixels.numpy()})
        return found["logits"], found["kept"]

    return run


def test_on_a_shipped_model_other_pictures_keep_what_prune_keeps():
    registry = ts.default_registry()
    ready = load(registry.checkpoint("world-llava").folder, registry, (), "cpu")
    task, question, seen = World(), "what color is the cross?", set()
    made = ts.export(ready.model, "norm", ready.inputs(task.picture(task.samples()[4]), question), keep=16)
    assert made.files == ()
    assert made.about["model"] == {"class": "LlavaForConditionalGeneration", "family": "llava"}
    for number in range(0, 60, 15):
        given = ready.inputs(task.picture(task.samples()[number]), question)
        assert given["input_ids"][0].tolist() == made.about["layout"]["input_ids"]
        logits, kept = pruned(ready.model, given, "norm", keep=16)
        with torch.no_grad():
            found, ids = made.module(given["input_ids"], given["pixel_values"])
        assert ids.tolist() == [kept]
        assert float((found - logits).abs().max()) < 1e-4
        seen.add(tuple(kept))
    assert len(seen) > 1


# Every day, the page on exported prefills compiles one.
@pytest.mark.nightly
def test_a_program_compiles_without_a_break_and_is_what_prune_does(model, tmp_path):
    options = {"keep": KEEP, "positions": "compact"}
    file = tmp_path / "both.pt2"
    made = ts.export(model, "norm & random", inputs(model), logits="all", out=file, **options)
    assert made.files == (file.with_suffix(".json"), file)
    largest, choices = differences(model, made.module, "norm & random", 0, **options)
    assert largest == 0
    assert choices > 1
    compiled = torch.compile(made.module, fullgraph=True, backend="eager")
    assert differences(model, compiled, "norm & random", 0, **options) == (0, choices)


# Every day, the page on exported prefills does it.
@pytest.mark.nightly
def test_onnx_runtime_runs_the_file(model, tmp_path):
    file = tmp_path / "norm.onnx"
    made = ts.export(model, "norm", inputs(model), keep=KEEP, to="onnx", out=file)
    session = onnxruntime.InferenceSession(file)
    assert [one.name for one in session.get_inputs()] == made.about["inputs"]

    def run(ids, pixels):
        return session.run(None, {"input_ids": ids.numpy(), "pixel_values": pixels.numpy()})

    largest, choices = differences(model, run, "norm", keep=KEEP)
    assert largest < 1e-4
    assert choices > 1
    # OpenVINO's TopK of an ONNX file has no rule for ties: masks, which are all ties, are sorted by other keys.
    assert differences(model, openvino_run(file), "norm", keep=KEEP)[0] < 1e-4


def test_openvino_runs_the_file_and_json_says_what_it_is(model, tmp_path):
    file = tmp_path / "divprune.xml"
    made = ts.export(model, "divprune", inputs(model), keep=KEEP, to="openvino", out=file)
    assert [one.name for one in made.files] == ["divprune.bin", "divprune.json", "divprune.xml"]
    assert sorted(tmp_path.iterdir()) == list(made.files)
    largest, choices = differences(model, openvino_run(file), "divprune", keep=KEEP)
    assert largest < 1e-4
    assert choices > 1
    text = file.with_suffix(".json").read_text(encoding="utf-8")
    about = json.loads(text)
    assert about == made.about
    assert about["layout"]["placeholders"] == [place for place, word in enumerate(PROMPT) if word == IMAGE]
    assert about["recipe_hash"] == ts.Recipe.load("divprune", keep=KEEP).hash()
    shapes = {"input_ids": [1, 21], "pixel_values": [1, 3, 32, 32], "logits": [1, 1, 64], "kept": [1, 4]}
    assert about["shapes"] == shapes
    assert about["versions"].keys() == {"tokensieve", "torch", "transformers", "openvino"}
    # Statistics about models would go to a server.
    assert "openvino_telemetry" not in sys.modules
    # Lists of numbers stand on one line.
    assert len(text.splitlines()) < 120


@pytest.mark.nightly
@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize(
    ("formula", "looks"),
    [
        ("norm", True),
        ("gsp", True),
        ("divprune", True),
        ("tome", True),
        ("~norm", True),
        ("norm | gsp", True),
        ("norm - gsp", True),
        ("norm ^ gsp", True),
        ("at_least(2, norm, gsp, random)", True),
        ("borda(norm, gsp)", True),
        ("weighted(norm, gsp, weights=[2, 1])", True),
        ("random", False),
        ("uniform", False),
    ],
)
def test_every_formula_that_asks_nothing_is_what_prune_does(model, formula, looks, positions):
    made = ts.export(model, formula, inputs(model), keep=KEEP, positions=positions)
    largest, choices = differences(model, made.module, formula, keep=KEEP, positions=positions)
    assert largest == 0
    assert made.about["layout"]["selection_depends_on_the_picture"] is looks
    # Some look, and keep the same of all these pictures.
    assert looks or choices == 1
