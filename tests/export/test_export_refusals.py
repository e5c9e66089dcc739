"""What has no exact graph is refused before anything is written, with what and why."""

import pytest
import torch
from tests.engine.models import IMAGE
from tests.export.small import KEEP, PROMPT, inputs, pruned, small

import tokensieve as ts
from tokensieve.errors import MissingEvidenceError, RefusedError
from tokensieve.exporting import targets
from tokensieve.exporting.targets import TARGETS
from tokensieve_adapters import ADAPTERS


@pytest.mark.parametrize(
    ("recipe", "keep", "error", "said"),
    [
        (
            "fastv",
            6,
            RefusedError,
            r"recipe 'fastv' cuts at decoder\.2; the exported graph selects before",
        ),
        ("divprune-fastv", None, RefusedError, r"cuts at decoder\.\d+; the exported graph"),
        ("tome-encoder", None, RefusedError, r"cuts at encoder\.0"),
        ("script", 6, MissingEvidenceError, "reads query; the exported graph has features, grid, sizes alone"),
        ("cls", 6, MissingEvidenceError, "reads vision_attention; the exported graph"),
        ("prumerge", "auto", RefusedError, "keep: auto"),
        ("divprune-shared", 6, RefusedError, "has keep: mean 6, which pictures share by what each needs"),
        ("quota(norm, gsp)", 6, RefusedError, "'quota' in 'quota.*' cannot be part of a graph.* it asks the host"),
        ("stream(divprune)", 6, RefusedError, "'stream.*' cannot be part of a graph.* it asks the host"),
    ],
)
def test_a_recipe_without_a_graph_says_why(model, recipe, keep, error, said):
    before = dict(vars(model))
    with pytest.raises(error, match=said):
        ts.export(model, recipe, inputs(model), keep=keep)
    assert vars(model) == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"input_ids": torch.tensor([PROMPT, PROMPT])}, r"one prompt, input_ids \[1, n\]; given were \[2, 21\]"),
        ({"input_ids": torch.tensor([[1, *[IMAGE] * 9, 7]])}, "9 placeholders, the image 16 visual tokens"),
        ({"attention_mask": torch.tensor([[0] + [1] * 20])}, "hides places of the prompt"),
        ({"pixel_values": None}, "with one image; given were none"),
        ({"pixel_values": torch.zeros(2, 3, 32, 32)}, "with one image; given were 2|9 placeholders|32 visual tokens"),
        ({"position_ids": torch.arange(21)[None]}, "does not read position_ids; leave it out"),
    ],
)
def test_inputs_without_a_fixed_layout_say_why(model, changes, said):
    with pytest.raises(RefusedError, match=said):
        ts.export(model, "norm", inputs(model) | changes, keep=KEEP)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda model: model.train(), r"training mode.* call model\.eval\(\)"),
        (lambda model: model.half(), r"weights in float16.* model\.float\(\)"),
        (lambda model: model.to("meta"), r"the model is on meta.* model\.cpu\(\)"),
        (lambda model: model.set_attn_implementation("flex_attention") or model, "attn_implementation='sdpa'"),
    ],
)
def test_a_model_in_another_state_says_what_to_do(change, said):
    model = small()
    given = inputs(model)
    with pytest.raises(RefusedError, match=said):
        ts.export(change(model), "norm", given, keep=KEEP)


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.name)
def test_every_other_family_is_refused_by_name(adapter):
    if adapter.decoder_type is not None and adapter.decoder_type.prefills_from_embeddings:
        assert adapter.name == "llava"
        return
    with torch.device("meta"):
        model = adapter.tiny()
    with pytest.raises(ts.TokensieveError, match=adapter.name if adapter.refusal_reason is None else "prun"):
        ts.export(model, "norm", {}, keep=KEEP)


@pytest.mark.parametrize(
    ("to", "file", "said"),
    [
        ("onnx", "norm.xml", r"ends in \.onnx, and norm\.xml does not"),
        ("torch", "no/norm.pt2", "there is not; name a file"),
        ("tensorrt", "norm.engine", "no form 'tensorrt' of an export; there are onnx, openvino, torch|torch, onnx"),
    ],
)
def test_a_file_that_cannot_be_is_refused_first(model, tmp_path, to, file, said):
    with pytest.raises(RefusedError, match=said):
        ts.export(model, "norm", {}, keep=KEEP, to=to, out=tmp_path / file)


def test_a_missing_package_is_said_with_how_to_install_it(model, tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "find_spec", lambda name: None if name == "openvino" else object())
    with pytest.raises(RefusedError, match=r"openvino is not installed: pip install 'tokensieve\[export\]'"):
        ts.export(model, "norm", {}, keep=KEEP, to="openvino", out=tmp_path / "norm.xml")


class _Wrong(targets.TorchTarget):
    """Runs another graph than it wrote."""

    def __init__(self, changed):
        self._changed = changed

    def write(self, program, file):
        file.write_bytes(b"")

    def load(self, file):
        return self._changed


@pytest.mark.parametrize(
    ("shift", "ids", "said"),
    [
        (0.0, range(4), r"keeps \d of the 4 tokens that prune keeps of the example: .* Nothing was written"),
        (2e-4, None, r"a logit differs by 0\.0002 from that of prune, and 0\.0001 is allowed\. Nothing was written"),
        (float("nan"), None, "a logit differs by nan"),
    ],
)
def test_a_graph_that_does_something_else_is_not_written(model, tmp_path, monkeypatch, shift, ids, said):
    def run(words, pixels):
        logits, kept = pruned(model, {"input_ids": words, "pixel_values": pixels}, "uniform", keep=KEEP)
        return logits + shift, torch.tensor([list(ids or kept)])

    monkeypatch.setitem(TARGETS, "torch", _Wrong(run))
    monkeypatch.setattr("tokensieve.exporting.export._traced", lambda *_: None)
    with pytest.raises(RefusedError, match=said):
        ts.export(model, "uniform", inputs(model), keep=KEEP, out=tmp_path / "norm.pt2")
    assert list(tmp_path.iterdir()) == []
