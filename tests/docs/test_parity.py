"""The script that runs an original beside ours: it has none of its own, and takes what it is given."""

import os

import pytest
from benchmarks import parity

# Written here, by the name and the signature of the original alone.
SCORE = """
import os
import torch

COUNT = {"192": 300, "128": 303, "64": 66}[os.environ["RETAIN_TOKN"]]

def attn_postprocess_topk(weights, start, n, text, found, layer: Whatever) -> Whatever:
    behind = weights.mean(1)[:, found[1] + text, start : start + n].mean(1)
    mask = torch.zeros_like(behind, dtype=torch.bool)
    mask[0, behind[0].argsort(descending=MOST)[:COUNT]] = True
    return mask, True, behind
"""


@pytest.fixture
def checkout(tmp_path):
    def made(text):
        file = tmp_path / parity.ORIGINALS["sparsevlm"].file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return tmp_path

    return made


def test_without_a_checkout_nothing_is_run(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(parity, "taken", None)
    assert parity.main([]) == 0
    said = capsys.readouterr().out
    assert "no checkout was given, and nothing was run" in said
    assert all(method in said for method in (*parity.ORIGINALS, *parity.NOT_CALLED))


def test_a_folder_that_is_no_checkout(tmp_path, capsys):
    assert parity.main(["mmtok", str(tmp_path)]) == 1
    assert "mmtok: nothing was run" in capsys.readouterr().out
    assert parity.main(["mmtok"]) == parity.main(["divprune", str(tmp_path)]) == 2


def test_a_file_without_the_function(checkout, capsys):
    folder = checkout("def other(): ...")
    (folder / "visionzip").mkdir()
    (folder / "visionzip" / "clip_encoder.py").write_text("class CLIPVisionTower_VisionZip: ...", encoding="utf-8")
    assert parity.main(["visionzip", str(folder), "sparsevlm", str(folder)]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "has no CLIPVisionTower_VisionZip.forward" in said
    assert "sparsevlm: nothing was run: 'attn_postprocess_topk'" in said


@pytest.mark.parametrize("most", [True, False])
def test_what_is_in_the_checkout_is_what_is_compared(checkout, most):
    before = dict(os.environ)
    found = parity.compare(parity.ORIGINALS["sparsevlm"], checkout(SCORE.replace("MOST", str(most))), [0])
    assert [kind for kind, _ in found] == ["random"] * 3
    assert ([part for _, part in found] == [1.0] * 3) == most
    assert dict(os.environ) == before


def test_a_method_of_a_class_is_taken_alone(tmp_path):
    file = tmp_path / "big.py"
    file.write_text(
        "import no_such_module\nclass A:\n    @torch.no_grad()\n    def f(self, x: Missing):\n        return x + 1\n",
        encoding="utf-8",
    )
    assert parity.taken(file, "A.f")(None, 2) == 3
    assert parity.taken(file, "A").__name__ == "A"
