"""Exported prefills keep what `prune` keeps, also of pictures that they were not made with."""

import json

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from tests.engine.models import IMAGE, llava

import tokensieve as ts
from tokensieve.exporting.targets import INPUTS

KEEP = 6
PROMPT = [1, 5, *[IMAGE] * 16, 7, 8, 9]


@pytest.fixture(scope="module")
def model():
    return llava(layers=2)


def inputs(model, seed=0, prompt=PROMPT):
    side = model.config.vision_config.image_size
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(seed))
    return {"input_ids": torch.tensor([prompt]), "pixel_values": pixels}


def pruned(model, given, recipe, *, logits_to_keep=1, **options):
    with torch.no_grad(), ts.prune(model, recipe, **options) as run:
        output = model(**given, logits_to_keep=logits_to_keep)
    return output.logits, run.kept("decoder.0")[0].tolist()


@torch.no_grad()
def differences(model, run, recipe, **options):
    """The largest difference of a logit on pictures and words that the graph was not made with; ids are equal."""
    largest, seen = 0.0, set()
    for seed in range(1, 7):
        given = inputs(model, seed, [1, 10 + seed, *[IMAGE] * 16, 20 + seed, 8, 30 + seed])
        logits, kept = pruned(model, given, recipe, **options)
        found, ids = run(*(given[name] for name in INPUTS))
        assert np.asarray(ids).tolist() == [kept]
        seen.add(tuple(kept))
        largest = max(largest, float(np.abs(np.asarray(found) - logits.numpy()).max()))
    return largest, len(seen)


@pytest.mark.parametrize(
    ("formula", "options"),
    [
        ("divprune", {}),
        ("gsp & norm", {"positions": "compact"}),
        ("random", {}),
    ],
)
def test_the_program_of_a_formula_is_what_prune_does(model, formula, options):
    made = ts.export(model, formula, inputs(model), keep=KEEP, **options)
    largest, choices = differences(model, made.program.module(), formula, keep=KEEP, **options)
    assert largest == 0
    assert choices > 1 or not made.about["layout"]["selection_depends_on_the_picture"]
    assert made.files == ()


def test_logits_at_all_places_and_merged_tokens(model):
    made = ts.export(model, "tome", inputs(model), keep=KEEP, logits="all")
    given = inputs(model, 3)
    logits, kept = pruned(model, given, "tome", keep=KEEP, logits_to_keep=0)
    with torch.no_grad():
        found, ids = made.program.module()(given["input_ids"], given["pixel_values"])
    assert found.shape == (1, len(PROMPT) - 16 + KEEP, logits.shape[-1])
    assert torch.equal(found, logits)
    assert ids.tolist() == [kept]


def test_a_program_compiles_without_a_break(model):
    made = ts.export(model, "norm", inputs(model), keep=KEEP)
    compiled = torch.compile(made.program.module(), fullgraph=True, backend="eager")
    assert differences(model, compiled, "norm", keep=KEEP)[0] == 0


def test_onnx_runtime_runs_the_file(model, tmp_path):
    file = tmp_path / "norm.onnx"
    made = ts.export(model, "norm", inputs(model), keep=KEEP, to="onnx", out=file)
    session = onnxruntime.InferenceSession(file)
    assert [one.name for one in session.get_inputs()] == made.about["inputs"]
    largest, choices = differences(
        model,
        lambda ids, pixels: session.run(None, {"input_ids": ids.numpy(), "pixel_values": pixels.numpy()}),
        "norm",
        keep=KEEP,
    )
    assert largest < 1e-4
    assert choices > 1
    # TopK of an ONNX file has no rule for ties in OpenVINO: masks, which are all ties, are sorted by other keys.
    compiled = openvino.compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    largest, _ = differences(
        model, lambda *given: list(compiled([one.numpy() for one in given]).values()), "norm", keep=KEEP
    )
    assert largest < 1e-4


def test_openvino_runs_the_file_and_json_says_what_it_is(model, tmp_path):
    file = tmp_path / "divprune.xml"
    made = ts.export(model, "divprune", inputs(model), keep=KEEP, to="openvino", out=file)
    assert [one.name for one in made.files] == ["divprune.bin", "divprune.json", "divprune.xml"]
    assert sorted(tmp_path.iterdir()) == list(made.files)
    compiled = openvino.compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    largest, choices = differences(
        model,
        lambda ids, pixels: (lambda found: (found["logits"], found["kept"]))(
            compiled({"input_ids": ids.numpy(), "pixel_values": pixels.numpy()})
        ),
        "divprune",
        keep=KEEP,
    )
    assert largest < 1e-4
    assert choices > 1
    text = file.with_suffix(".json").read_text(encoding="utf-8")
    about = json.loads(text)
    assert about == made.about
    assert about["layout"]["placeholders"] == [place for place, word in enumerate(PROMPT) if word == IMAGE]
    assert about["recipe_hash"] == ts.Recipe.load("divprune", keep=KEEP).hash()
    assert about["shapes"] == {
        "input_ids": [1, 21],
        "pixel_values": [1, 3, 32, 32],
        "logits": [1, 1, 64],
        "kept": [1, 6],
    }
    assert about["versions"]["openvino"] == openvino.__version__.split("-")[0]
    assert len(text.splitlines()) < 120
