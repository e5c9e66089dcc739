"""`make sweep`: each sweep finds nothing in a short while, and says what it finds; the page's names are there."""

import json
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SWEEP = runpy.run_path(str(ROOT / "tools" / "sweep.py"), run_name="sweep")
PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in SWEEP["SWEEPS"] if name != "kills"])
def test_a_short_sweep_finds_nothing(name, capsys):
    assert SWEEP["main"](["--minutes", "0", "--only", name, "--seed", "16"]) == 0
    assert re.search(rf"^{name} +[1-9]\d* tried, 0 failed", capsys.readouterr().out)


@pytest.mark.nightly
def test_a_study_that_is_killed(capsys):
    assert SWEEP["main"](["--minutes", "0", "--only", "kills", "--seed", "1"]) == 0
    assert " 0 failed" in capsys.readouterr().out


def test_a_failure_is_said_with_its_seed(monkeypatch, capsys, tmp_path):
    def odd(seed, folder):
        assert folder.is_dir()
        if seed % 2:
            raise ValueError("odd")
        return 5

    monkeypatch.setitem(SWEEP["SWEEPS"], "cuts", (odd, 1.0))
    out = tmp_path / "sweeps.json"
    assert SWEEP["main"](["--minutes", "0", "--only", "cuts", "--seed", "3", "--out", str(out)]) == 1
    assert "--only cuts --seed 3: ValueError: odd" in capsys.readouterr().out
    found = json.loads(out.read_text())["sweeps"]["cuts"]
    assert found["failures"] == [{"seed": 3, "error": "ValueError: odd"}]
    result = SWEEP["sweep"](odd, range(10**9), 3600)
    assert result.seeds == 2 * SWEEP["MOST_FAILURES"]
    assert result.tried == 6 * SWEEP["MOST_FAILURES"]


def test_the_page_has_the_counts_of_all_sweeps():
    found = json.loads((ROOT / "docs" / "assets" / "sweeps.json").read_text(encoding="utf-8"))
    assert list(found["sweeps"]) == sorted(SWEEP["SWEEPS"])
    assert all(result["tried"] for result in found["sweeps"].values())
    assert "<!-- table: sweeps -->" in PAGE


def test_what_tests_a_promise_is_there():
    named = re.findall(r"`(tests/[^`]+)`", PAGE)
    assert len(named) > 30
    for path in named:
        assert (ROOT / path).exists(), path
    for row in re.findall(r"^\| (?!promise|---)(.+) \|$", PAGE, re.MULTILINE):
        assert "`tests/" in row, row
