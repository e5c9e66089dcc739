"""The grid of the paper: `studies/script.yaml` is counted without any checkpoint, and runs on stand-ins."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

import tokensieve as ts
from tokensieve.cli import app
from tokensieve.study.planning import plan as planning
from tokensieve.study.report import files
from tokensieve.study.running.runner import Runner
from tokensieve.study.spec.study import Study
from tokensieve.study.store import Store

from . import standins

FILE = Path(__file__).parents[2] / "studies" / "script.yaml"
SAID = yaml.safe_load(FILE.read_text(encoding="utf-8"))
VISUAL = {"llava-1_5-7b": 576, "llava-next-7b": 2880, "video-llava-7b": 2056}
KEEP = {"llava-1_5-7b": [192, 128, 64, 32], "llava-next-7b": [640, 320, 160], "video-llava-7b": [256, 128, 64]}


@pytest.fixture
def brought(tmp_path, monkeypatch):
    """What the head of the file says that a user brings, two questions a benchmark; and no hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    rng = np.random.default_rng(0)
    for task in SAID["tasks"]:
        name, lines = task["name"], []
        for number in range(2):
            noise = rng.integers(0, 255, (96, 96, 3), dtype="uint8")
            line = {"id": f"{name}{number}", "question": "What is it?", "answer": "yes"}
            if task["metric"] == "vqa":
                line = {**line, "answer": None, "answers": ["yes"] * 10}
            if task["metric"] == "choice":
                line |= {"choices": ["a dog", "a cat"], "answer": "A"}
            if task.get("ocr"):
                line |= {"ocr": ["EXIT"]}
            place = tmp_path / "data" / name / str(number)
            place.mkdir(parents=True)
            if task.get("frames"):
                for frame in range(3):
                    Image.fromarray(np.roll(noise, 8 * frame, axis=1)).save(place / f"{frame}.png")
                line |= {"video": f"{name}/{number}"}
            else:
                Image.fromarray(noise).save(place / "it.png")
                line |= {"image": f"{name}/{number}/it.png"}
            lines.append(json.dumps(line))
        (tmp_path / "data" / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def by_hand(text, lengths):
    """FLOPs of a prefill from the config alone."""
    d, inner = text["hidden_size"], text["intermediate_size"]
    return sum(2 * n * (4 * d * d + 3 * d * inner) + 4 * n * n * d for n in lengths)


def layers_of(cell, visual, depth):
    """How many visual tokens each layer sees, from what the cell says and nothing else."""
    if cell.role in ("unpruned", "text_only", "downsampled"):
        return [{"unpruned": visual, "text_only": 0}.get(cell.role, int(cell.keep or 0))] * depth
    seen, now = [], visual
    cuts = {int(stage["at"].removeprefix("decoder.")): stage["keep"] for stage in cell.recipe["stages"]}
    for layer in range(depth):
        now = min(now, cuts.get(layer, now))
        seen.append(now)
    return seen


def test_the_grid_is_the_papers():
    study = Study.load(FILE, ts.default_registry())
    assert {model.name: [budget.to_data() for budget in model.keep] for model in study.models} == KEEP
    methods = {method.name for method in study.recipes}
    assert methods >= {"script", "gsp", "qcsp", "fastv", "sparsevlm", "visionzip", "divprune", "cdpruner"}
    # Read back from what a run writes down, it is the same.
    assert Study.loads(study.dump(), ts.default_registry()) == study


@pytest.mark.parametrize("tasks", [("gqa", "mmb-cn", "tgif"), pytest.param((), marks=pytest.mark.nightly, id="all")])
def test_the_dry_run_needs_no_checkpoint(brought, monkeypatch, tasks):
    monkeypatch.setenv("COLUMNS", "200")
    chosen = [task for task in SAID["tasks"] if not tasks or task["name"] in tasks]
    plans, plan = [], planning.plan_study

    def record(*args, **kwargs):
        plans.append(plan(*args, **kwargs))
        return plans[-1]

    monkeypatch.setattr(planning, "plan_study", record)
    chosen = ["--set", f"tasks={json.dumps(chosen)}"]
    result = CliRunner().invoke(app, ["compare", str(FILE), "--out", "runs/x", "--dry-run", *(chosen if tasks else ())])
    assert result.exit_code == 0, result.output
    assert not Path("runs").exists()
    for name in VISUAL:
        assert f"the checkpoint of '{name}' is not here" in result.stdout
        assert f"counted by the geometry {name}, and 64 text tokens" in result.stdout
    rows = [[one.strip() for one in line.split("│")[1:-1]] for line in result.stdout.splitlines() if "│" in line]
    listed = {tuple(row[:3]): row[3:] for row in rows if len(row) == 6}
    assert listed["llava-1_5-7b", "gqa", "script"] == ["192, 128, 64, 32", "4", "0"]
    assert listed["llava-next-7b", "mmb-cn", "random at decoder.2"] == ["640, 320, 160", "9", "0"]
    assert listed["video-llava-7b", "tgif", "qcsp"] == ["256, 128, 64", "3", "0"]
    assert ("video-llava-7b", "gqa", "script") not in listed
    # Every cell of every model and task is counted, from the released configs by hand.
    registry = ts.default_registry()
    (found,) = plans
    assert set(found.not_downloaded) == set(VISUAL)
    totals = {}
    for job in found.jobs:
        geometry = json.loads(registry.geometry(job.cell.model).read_text(encoding="utf-8"))
        text = geometry["config"]["text_config"]
        seen = layers_of(job.cell, VISUAL[job.cell.model], text["num_hidden_layers"])
        one = totals.setdefault((job.cell.model, job.cell.task), [0, 0])
        one[0] += 1
        one[1] += 2 * by_hand(text, [64 + n for n in seen])
    counted = {tuple(row[:2]): row[2:] for row in rows if len(row) == 8}
    assert set(counted) == set(totals)
    for names, (many, flops) in totals.items():
        assert counted[names][:4] == [str(many), str(many), "2", str(VISUAL[names[0]])]
        assert counted[names][4] == f"{flops / 1e12:,.3f}"


def test_a_benchmark_that_is_not_there_is_named_with_its_line(brought):
    Path("data/pope.jsonl").unlink()
    result = CliRunner().invoke(app, ["compare", str(FILE), "--out", "runs/x", "--dry-run"])
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    lines = FILE.read_text(encoding="utf-8").splitlines()
    [line] = [number for number, text in enumerate(lines, 1) if "path: data/pope.jsonl" in text]
    assert "data/pope.jsonl cannot be read: No such file" in said
    assert f"script.yaml:{line})" in said


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A stand-in for each of the study's models."""
    folder = tmp_path_factory.mktemp("stand-ins")
    made = (standins.llava, standins.llava_next, standins.video_llava)
    return {name: make(folder / name) for name, make in zip(VISUAL, made, strict=True)}


SITES = {"fastv": [2], "dart": [2], "sparsevlm": [3, 7, 16], "sparsevlm-next": [3, 7, 16]}
"""Where a method cuts that does not cut in front of the language model."""
LISTS = {"192": [300, 200, 110], "128": [303, 110, 36], "64": [66, 30, 17]}
"""What the authors of SparseVLM mean by a budget."""
SEEN = {"llava-1_5-7b": 576, "llava-next-7b": 576 + 24 * 25, "video-llava-7b": 8 * 257}
"""Visual tokens of the stand-ins' inputs: LLaVA-NeXT sees a small picture whole and in one tile with its newlines."""


@pytest.fixture
def lengths(monkeypatch):
    """By cell and layer, how many tokens went through the layer in the last prefill."""
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    found, now = {}, []
    run, forward = Runner.run, LlamaDecoderLayer.forward

    def runs(self, job):
        now[:] = [job.cell.key]
        return run(self, job)

    def goes(self, hidden_states, *args, **kwargs):
        if hidden_states.shape[1] > 1:
            found.setdefault(now[0], {})[self.self_attn.layer_idx] = hidden_states.shape[1]
        return forward(self, hidden_states, *args, **kwargs)

    monkeypatch.setattr(Runner, "run", runs)
    monkeypatch.setattr(LlamaDecoderLayer, "forward", goes)
    return found


@pytest.mark.nightly
def test_every_cell_runs_on_stand_ins_and_keeps_its_budget(brought, checkpoints, lengths, monkeypatch):
    chosen = [task for task in SAID["tasks"] if task["name"] in ("gqa", "tgif")]
    settings = [f"models.{name}.path={folder}" for name, folder in checkpoints.items()]
    settings += [f"models.{name}.query_encoder=null" for name in ("llava-1_5-7b", "llava-next-7b")]
    # One benchmark of each kind, one question, an answer of two tokens, one seed: all models, methods and budgets.
    settings += [f"tasks={json.dumps(chosen)}", "tasks.gqa.longest=2", "tasks.tgif.longest=2", "limit=1", "seeds=0"]
    settings += ["controls.inverted=32"]
    options = [part for setting in settings for part in ("--set", setting)]
    result = CliRunner().invoke(app, ["compare", str(FILE), "--out", "runs/x", "--in-process", *options])
    assert result.exit_code == 0, result.output
    store = Store("runs/x")
    keys = store.plan()["keys"]
    assert sorted(keys) == sorted(store.keys()) == sorted(lengths)
    ran = {}
    for key in keys:
        cell, (row,) = store.read(key)
        name = cell.of or cell.method
        ran.setdefault((cell.model, name), []).append(cell.keep)
        visual = SEEN[cell.model]
        if cell.role in ("unpruned", "text_only"):
            sites, budgets = [0], [visual if cell.role == "unpruned" else 0]
        else:
            sites = SITES.get(name) or [int(site) for site in re.findall(r"decoder\.(\d+)", cell.method)] or [0]
            budgets = [int(keep) for keep in cell.keep.split(", ")]
            if len(budgets) < len(sites):
                budgets = LISTS[cell.keep]
            budgets = [min(keep, visual) for keep in budgets]
            assert [len(ids) for ids in row.kept] == budgets, cell.method
            for ids in row.kept:
                assert sorted(set(ids)) == list(ids)
                assert 0 <= ids[0] <= ids[-1] < visual
        left = visual
        for layer in range(standins.DEPTH):
            left = budgets[sites.index(layer)] if layer in sites else left
            assert lengths[key][layer] == row.text + left, (cell.model, cell.method, cell.keep, layer)
    for model, keeps in KEEP.items():
        both = model != "video-llava-7b"
        everywhere = {
            "script",
            "gsp",
            "qcsp",
            "divprune",
            "cdpruner",
            "trim",
            "fastv",
            "dart",
            "random",
            "uniform",
            "pool",
        }
        for method in everywhere | ({"visionzip", "prumerge-plus"} if both else set()):
            assert set(ran[model, method]) == {str(keep) for keep in keeps}, (model, method)
    assert ran["llava-1_5-7b", "sparsevlm"] == list(LISTS)
    assert ran["llava-next-7b", "sparsevlm-next"] == ["1515, 550, 180", "330, 150, 85"]
    assert ("video-llava-7b", "visionzip") not in ran
    skipped = {one["reason"] for one in store.plan()["skipped"] if one["model"] == "video-llava-7b"}
    assert any("a video is not downsampled" in reason for reason in skipped)
    # Figures as PNG and PDF are drawn in other tests.
    monkeypatch.setattr(files, "KINDS", ("svg",))
    told = CliRunner().invoke(app, ["report", "runs/x"])
    assert told.exit_code == 0, told.output
    page = Path("runs/x/report/index.html").read_text(encoding="utf-8")
    for name in (*VISUAL, "script", "sparsevlm-next", "tgif", "gqa"):
        assert name in page
