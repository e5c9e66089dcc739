"""`demo`, from nothing to pictures."""

import json
from pathlib import Path

import torch
from PIL import Image

import tokensieve as ts
from tokensieve.cli.app import DEMO, DEMO_QUESTION
from tokensieve.cli.files import shipped_photo
from tokensieve.cli.watching import watch


def test_the_demo(cli, ready, photo):
    threads = torch.get_num_threads()
    result = cli("demo", "--repeats", "1")
    assert result.exit_code == 0, result.output
    assert torch.get_num_threads() == threads
    assert "RANDOM WEIGHTS" in result.stdout
    assert DEMO_QUESTION in result.stdout
    for recipe in DEMO:
        assert recipe in result.stdout
    for file in ("demo/grace_hopper.kept.png", "demo/ledger.json", "demo/model"):
        assert file in result.stdout
        assert Path(file).exists()
    assert max(map(len, result.stdout.splitlines()[1:-1])) <= 80
    with Image.open("demo/grace_hopper.kept.png") as drawn:
        assert drawn.width > 1_500

    ledger = json.loads(Path("demo/ledger.json").read_text(encoding="utf-8"))
    assert ledger["format"] == "tokensieve.demo/1"
    assert [entry["recipe"] for entry in ledger["recipes"]] == list(DEMO)
    assert str(Path.cwd()) not in json.dumps(ledger)
    # The kept sets are the same every time: here, of another copy of the example.
    inputs = ready.inputs(photo, DEMO_QUESTION)
    for entry in ledger["recipes"]:
        assert {len(times) for times in entry["ms"].values()} == {1}
        assert entry["samples"][0]["flops_pruned"] < entry["samples"][0]["flops_unpruned"]
        _, seen = watch(ready, ts.Recipe.load(entry["recipe"]), inputs, None, ts.default_registry())
        for one, stage, operands in zip(seen, entry["stages"], entry["operands"], strict=True):
            assert sorted(one.kept) == stage["samples"][0]["kept_ids"]
            assert {name: sorted(ids) for name, ids in one.own.items()} == operands["own_ids"]

    # What script keeps is neither of its operands, which stand in the table by themselves, too.
    by_name = {entry["recipe"]: entry for entry in ledger["recipes"]}
    script, gsp, qcsp = (by_name[name]["stages"][0]["samples"][0]["kept_ids"] for name in ("script", "gsp", "qcsp"))
    assert script != gsp != qcsp != script
    operands = by_name["script"]["operands"][0]
    assert operands["own_ids"] == {"graph": gsp, "query": qcsp}
    assert operands["jaccard_with_kept"]["graph"] == len(set(script) & set(gsp)) / len(set(script) | set(gsp))
    assert 0 < operands["jaccard_between"]["graph query"] < 1
    assert f"{operands['jaccard_with_kept']['graph']:.2f}" in result.stdout


def test_the_demo_of_something_else(cli, recipe, tmp_path):
    Image.new("RGB", (90, 60), "teal").save(tmp_path / "flat.png")
    arguments = ("--image", "flat.png", "--prompt", "Why [blue]?", "--keep", "9", "--repeats", "1", "--out", "here")
    result = cli("demo", recipe("norm"), *arguments)
    assert result.exit_code == 0, result.output
    assert "Why [blue]?" in result.stdout
    assert "What the operands contribute" not in result.stdout
    ledger = json.loads(Path("here/ledger.json").read_text(encoding="utf-8"))
    assert (ledger["image"], ledger["prompt"]) == ("flat.png", "Why [blue]?")
    assert ledger["recipes"][0]["stages"][0]["samples"][0]["kept"] == 9
    assert Path("here/flat.kept.png").is_file()


def test_the_shipped_photo_has_a_source():
    photo = shipped_photo()
    assert photo.is_file()
    assert "public domain" in photo.with_name("SOURCES.md").read_text(encoding="utf-8")
    assert photo.name in photo.with_name("SOURCES.md").read_text(encoding="utf-8")
