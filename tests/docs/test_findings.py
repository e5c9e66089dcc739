"""What the page of findings says is in the tables that reports wrote."""

import importlib.util
import re

import pytest

from .pages import DOCS

PAGE = (DOCS / "findings.md").read_text(encoding="utf-8")
INTERVAL = re.compile(r"[+-]?\d+\.\d \[-?\d+\.\d, -?\d+\.\d\]")


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {
        name: module.TABLES[name]()
        for name in (
            "measured",
            "over_controls",
            "over_plain",
            "operands",
            "needed",
            "seeds",
            "filtered",
            "photographs",
            "wide",
            "wide_over",
            "failures",
            "look_back",
            "more",
            "more_over",
            "more_operands",
            "towers",
            "newer",
            "newer_over",
        )
    }


def test_every_interval_of_the_page_is_in_a_table(tables):
    said = INTERVAL.findall(PAGE)
    assert len(said) >= 5
    everything = "\n".join(tables.values())
    assert [
        one for one in [*said, *re.findall(r"\d+\.\d %|\d+\.\d / \d+\.\d / \d+\.\d", PAGE)] if one not in everything
    ] == []


def test_tables_hold_every_model_and_budget(tables):
    for name in ("measured", "over_controls", "over_plain", "operands", "needed"):
        heads = [line for line in tables[name].splitlines() if line.startswith("| `world-")]
        assert [head.split("`")[1] for head in heads] == ["world-llava", "world-llava-weak", "world-qwen"]
        for head in heads:
            assert re.findall(r"\d+/\d+", head) == ["1/3", "2/9", "1/9", "1/18", "1/36"]
    photographs = [line for line in tables["photographs"].splitlines() if line.startswith("| `world-")]
    assert [re.findall(r"`([\w-]+)`|(\d+/\d+)", head) for head in photographs] == [
        [(name, ""), ("", "1/3"), ("", "1/9"), ("", "1/18")] for name in ("world-llava", "world-qwen")
    ]
    random = next(line for line in tables["seeds"].splitlines() if line.startswith("| random"))
    assert all(cell.count(" / ") == 2 for cell in random.split("|")[3:-1])
