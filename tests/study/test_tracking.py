"""The hook `cell_finished`, and what a cell is as a run of MLflow."""

import numpy as np
import pytest

from tokensieve.cli.studies import Engine, run_study
from tokensieve.plugins.hookspecs import hookimpl
from tokensieve.study.running.mlflow_tracker import means_of, params_of, tags_of
from tokensieve.study.spec.study import Study
from tokensieve.study.store import Store

from .conftest import PLUGIN
from .made import cell, row, timeless

STUDY = """\
name: seen
plugins: [{plugin}]
models: [{model}]
recipes: [gsp]
keep: [{keep}]
tasks: [{{use: colours, questions: 2}}]
controls: {{}}
"""


class Watcher:
    def __init__(self, broken=""):
        self.seen = {}
        self.calls = 0
        self._broken = broken

    @hookimpl
    def cell_finished(self, study, cell, rows):
        self.calls += 1
        if cell.method == self._broken:
            raise RuntimeError("the server is gone")
        self.seen[study, cell.key] = timeless(rows)


@pytest.fixture
def run(checkpoint, tmp_path, registry):
    def once(watcher, keep="9", **engine):
        study = Study.loads(STUDY.format(plugin=PLUGIN, model=checkpoint, keep=keep), source="study.yaml")
        if not registry.is_registered(watcher):
            registry.register(watcher, f"watcher {id(watcher)}")
        store = Store(tmp_path / "run")
        assert run_study(study, store, registry, Engine(**engine))
        return store

    return once


def stored(store):
    return {("seen", key): timeless(store.read(key)[1]) for key in sorted(store.finished())}


def test_the_hook_sees_every_cell_from_workers_and_those_that_were_there(run):
    """A plugin that has no other hook need not be known to workers."""
    first, second = Watcher(), Watcher()
    store = run(first)
    assert len(first.seen) == first.calls > 1
    assert first.seen == stored(store)
    ran = len(first.seen)
    store = run(second, keep="9, 4", in_process=True)
    assert second.seen == stored(store)
    assert second.calls == len(second.seen) > ran


def test_a_hook_that_fails_costs_no_cell(run, capsys):
    watcher = Watcher(broken="gsp")
    store = run(watcher, in_process=True)
    said = "the hook cell_finished failed for small0 colours gsp keep 9, whose results are stored: the server is gone"
    assert " ".join(capsys.readouterr().err.split()).count(said) == 1
    lost = {("seen", one.key) for one in store.cells() if one.method == "gsp"}
    assert len(lost) == 1
    assert set(stored(store)) - set(watcher.seen) == lost


def test_what_a_cell_is():
    assert params_of(cell(seed=0)) == {
        "model": "m",
        "adapter": "a",
        "task": "t",
        "method": "gsp",
        "role": "method",
        "keep": "1/9",
        "seed": "0",
        "recipe_hash": "r",
    }
    tags = tags_of(cell(notes=("é" * 4000, "two" * 1000)))
    assert tags["tokensieve.code"] == "x"
    assert tags["tokensieve.recipe"] == "stages:\n- at: decoder.0\n  keep: 9\n"
    assert len(tags["mlflow.note.content"]) == 5000
    assert tags["mlflow.note.content"].endswith("…")
    assert "tokensieve.recipe" not in tags_of(cell(recipe=None, recipe_hash=None))


def test_means_are_over_what_is_known():
    rows = [
        row(correct=1.0, grades={"exact": 1.0}, recall=0.5, per_layer=(36, 9)),
        row(1, correct=0.0, grades={"exact": 0.0}, recall=None, per_layer=(36, 3)),
        row(2, correct=0.5, grades={"exact": 0.5}, recall=1.0, per_layer=(36, 36)),
    ]
    means = means_of(rows)
    assert means["samples"] == 3
    assert means["correct"] == means["grades.exact"] == 0.5
    assert means["recall"] == 0.75
    assert means["tokens_per_layer"] == pytest.approx(np.mean([[36, 9], [36, 3], [36, 36]]))
    assert means["flops"] == 1e13
    assert "tower_flops" not in means
    assert means_of([row(tower_flops=7)])["tower_flops"] == 7
