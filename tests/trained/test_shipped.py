"""The trained models in the package: whole, small enough, and as right as their cards say."""

import json

import pytest
from training import ship

import tokensieve as ts
from tokensieve.study.planning.plan import plan_study
from tokensieve.study.running.runner import Runner
from tokensieve.study.spec.study import Study
from tokensieve.tasks.world import World
from tokensieve.tasks.world.questions import ATTRIBUTES


@pytest.fixture(scope="module")
def checkpoints():
    return ts.default_registry().checkpoints


def test_what_ships_is_known_and_small_enough(checkpoints):
    assert {"world-llava", "world-llava-weak", "world-qwen", "world-qwen-wide"} <= set(checkpoints)
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


def test_the_card_of_the_wide_model_says_what_was_measured(checkpoints):
    folder = checkpoints["world-qwen-wide"].folder
    card = (folder / "README.md").read_text(encoding="utf-8")
    found = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line.startswith("| `")
    ]
    shares = {(row[0].strip("`"), row[1]): row[2:] for row in rows}
    low = set()
    for task in ship.WIDE:
        counts, blind = found[task], found[f"{task}, blind"]
        assert all(asked >= 30 for _, asked in counts.values())
        for kind, (right, asked) in counts.items():
            assert shares[task, kind][0] == f"{100 * right / asked:.1f} %"
            assert shares[task, kind][1] == f"{100 * blind[kind][0] / blind[kind][1]:.1f} %"
            assert shares[task, kind][2] == str(asked)
            low |= {f"{kind} of `{task}`"} if right / asked < 0.8 else set()
        kept = [pair for pair in counts.values() if pair[0] / pair[1] >= 0.8]
        share = sum(right for right, _ in kept) / sum(asked for _, asked in kept)
        assert shares[task, "**types from 80%**"][0] == f"{100 * share:.1f} %"
        assert share > 0.9
    (line,) = [line for line in card.splitlines() if line.startswith("Below 80 %")]
    assert set(line.split(": ")[1].rstrip(".").split(", ")) == low


def test_the_wide_model_reads_signs_clips_and_second_questions(checkpoints):
    """Asked anew, on a few pictures, as a study asks."""
    text = """
        models: [world-qwen-wide]
        recipes: [uniform]
        keep: [1/9]
        batch: 32
        tasks:
          - {use: world_text, pictures: 6, types: [word_of_color, color_of_word]}
          - {use: world_video, pictures: 6, types: [direction, last]}
          - {use: world_turns, pictures: 6, per_picture: 4}
          - {use: world_pictures, pictures: 6, types: [color_of_shape, shape_of_color]}
    """
    registry = ts.default_registry()
    runner = Runner(registry)
    for job in plan_study(Study.loads(text), registry).jobs:
        if job.cell.role in ("unpruned", "text_only"):
            rows = runner.run(job)[1]
            share = sum(row.correct for row in rows) / len(rows)
            assert share > 0.85 if job.cell.role == "unpruned" else share < 0.5, (job.cell.task, job.cell.role)
