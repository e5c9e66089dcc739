"""The trained models in the package: whole, small enough, and as right as their cards say."""

import json

import pytest
from training import ship

import tokensieve as ts
from tokensieve.tasks.world import World
from tokensieve.tasks.world.questions import ATTRIBUTES


@pytest.fixture(scope="module")
def checkpoints():
    return ts.default_registry().checkpoints


def test_what_ships_is_known_and_small_enough(checkpoints):
    assert {"world-llava", "world-llava-weak", "world-qwen"} <= set(checkpoints)
    strong, weak = checkpoints["world-llava"], checkpoints["world-llava-weak"]
    assert strong.folder == weak.folder
    assert strong.query_encoder != weak.query_encoder
    for one in checkpoints.values():
        assert ship.weight(one.folder) < ship.MOST


@pytest.mark.parametrize("name", ["world-llava", "world-qwen"])
def test_the_model_sees_what_it_is_asked_about(checkpoints, name):
    task = World(pictures=8, types=list(ATTRIBUTES))
    folder = checkpoints[name].folder
    for blind, least, most in ((False, 0.95, 1.0), (True, 0.0, 0.35)):
        counts = ship.right(folder, task, blind=blind)
        right, asked = (sum(count[place] for count in counts.values()) for place in (0, 1))
        assert asked == len(task.samples())
        assert least <= right / asked <= most


@pytest.mark.parametrize("name", ["world-llava", "world-qwen"])
def test_the_card_says_what_was_measured(checkpoints, name):
    folder = checkpoints[name].folder
    card = (folder / "README.md").read_text(encoding="utf-8")
    found = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    dense = found["dense"]
    right, asked = (sum(dense[kind][place] for kind in (*ATTRIBUTES, "exist")) for place in (0, 1))
    (row,) = [line for line in card.splitlines() if line.startswith("| **attributes and existence**")]
    assert f"| {100 * right / asked:.1f} % |" in row
    (low,) = [line for line in card.splitlines() if line.startswith("Below 80 %")]
    below = {kind for kind, (good, all_) in dense.items() if good / all_ < 0.8}
    assert {kind for kind in dense if f" {kind}" in low.replace(",", "").replace(".", "")} == below
