"""The Ray engine: the same rows, and a process that is killed in the middle."""

import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tokensieve import default_registry
from tokensieve.cli.demo import QUICK, shipped_study
from tokensieve.errors import StudyError
from tokensieve.study.planning.plan import plan_study
from tokensieve.study.running import ray_engine
from tokensieve.study.running.local_engine import run_local
from tokensieve.study.running.ray_engine import run_ray
from tokensieve.study.spec.study import Study
from tokensieve.study.store import Store

from .made import timeless

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture
def cluster(monkeypatch, tmp_path_factory):
    """A Ray cluster of this machine with room for two cells at a time."""
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # Its workers find the tests' plugin as this process does.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80 * 2**20)
    yield ray
    ray.shutdown()


@pytest.mark.nightly
def test_ray_gives_the_same_rows_though_a_worker_is_killed(planned, registry, cluster, tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    # The first process that judges is killed in the middle of it, and the cell is run again.
    once = f"{{name: once, strategies: {{f: {{use: faulty, how: once, marks: {marks}}}}}, select: f}}"
    jobs = planned(f"[{once}, fastv]", tasks="[{use: colours, questions: 3}]", more="seeds: [0]").jobs
    near, far = Store(tmp_path / "near"), Store(tmp_path / "far")
    for store in (near, far):
        store.begin("name: x\n", {"keys": [job.cell.key for job in jobs], "skipped": []})
    seen = []
    summary = run_ray(jobs, far, seen.append)
    killed = [path.name for path in marks.iterdir()]
    assert len(killed) == 1
    assert int(killed[0]) != os.getpid()
    assert (summary.done, summary.failed) == (len(jobs), [])
    assert {result.cell.key for result in seen} == {job.cell.key for job in jobs}
    # Here the strategy has nobody to kill any more.
    assert run_local(jobs, near, registry, lambda _: None).done == len(jobs)
    assert near.keys() == far.keys() == sorted(job.cell.key for job in jobs)
    for key in near.finished():
        assert timeless(near.read(key)[1]) == timeless(far.read(key)[1])


@pytest.mark.nightly
def test_the_demo_gives_the_same_rows_on_ray(cluster, tmp_path):
    small = ["limit=9", "keep=1/9", "recipes=script,fastv,tome", "batch=4", "controls.at_every_site=false"]
    registry = default_registry()
    jobs = plan_study(Study.load(shipped_study(), registry, [*QUICK, *small]), registry).jobs
    near, far = Store(tmp_path / "near"), Store(tmp_path / "far")
    for store in (near, far):
        store.begin("name: x\n", {"keys": [job.cell.key for job in jobs], "skipped": []})
    assert run_ray(jobs, far, lambda _: None).done == len(jobs) >= 12
    assert run_local(jobs, near, registry, lambda _: None).done == len(jobs)
    assert near.keys() == far.keys()
    for key in near.finished():
        assert timeless(near.read(key)[1]) == timeless(far.read(key)[1])


class LostError(Exception):
    """What a cluster raises whose machine is gone."""


@dataclass(eq=False)
class Task:
    """What stands for a running cell."""

    function: Callable
    args: tuple


class Cluster:
    """Stands for Ray: every cell's first runs are lost."""

    class exceptions:  # noqa: N801 - Ray's own name
        RayError = LostError

    def __init__(self, losses):
        self.losses = losses
        self.runs = {}

    def is_initialized(self):
        return True

    def cluster_resources(self):
        return {"CPU": 2.0}

    def remote(self, **options):
        self.options = options
        return lambda function: type("Remote", (), {"remote": staticmethod(lambda *args: Task(function, args))})

    def wait(self, references, num_returns):
        return references[:num_returns], references[num_returns:]

    def get(self, reference):
        function, args = reference.function, reference.args
        key = args[0].cell.key
        self.runs[key] = self.runs.get(key, 0) + 1
        if self.runs[key] <= self.losses:
            raise LostError("the node died")
        return function(*args)


def test_lost_cells_are_tried_again_and_given_up_in_the_end(planned, store, registry, monkeypatch):
    jobs = planned().jobs[:2]
    monkeypatch.setattr(ray_engine, "default_registry", lambda: registry)
    monkeypatch.setattr(ray_engine, "_runners", {})
    hopeless = Cluster(losses=99)
    monkeypatch.setattr(ray_engine, "_import_ray", lambda: hopeless)
    summary = run_ray(jobs, store, lambda _: None, gpus=0.25)
    assert hopeless.options == {"num_cpus": 1.0, "num_gpus": 0.25, "max_retries": 0}
    assert set(hopeless.runs.values()) == {ray_engine.RETRIES + 1}
    assert [one.reason for one in summary.failed] == ["its process was lost 4 times: LostError: the node died"] * 2
    shaky = Cluster(losses=2)
    monkeypatch.setattr(ray_engine, "_import_ray", lambda: shaky)
    summary = run_ray(jobs, store, lambda _: None)
    assert (summary.done, summary.failed) == (2, [])
    assert set(shaky.runs.values()) == {3}


def test_a_cell_that_takes_too_long_ends_its_process_and_fails(planned, store, registry, monkeypatch):
    jobs = planned().jobs[:1]
    monkeypatch.setattr(ray_engine, "default_registry", lambda: registry)
    monkeypatch.setattr(ray_engine, "_runners", {})
    ended = threading.Event()

    def end(code):
        """Stands for the end of the process, after which Ray says that it is lost."""
        ended.set()

    def hang(*_, **__):
        assert ended.wait(60)
        raise LostError("the process died")

    monkeypatch.setattr(ray_engine.os, "_exit", end)
    monkeypatch.setattr(ray_engine, "run_cell", hang)
    with pytest.raises(LostError):
        ray_engine.run_one(jobs[0], store.path, 0.0, 0.2)
    [failure] = store.failures()
    assert "it had not ended after 0.2 seconds" in failure.reason
    assert store.failed_since(jobs[0].cell.key, 0.0)


def test_without_ray(monkeypatch, planned, store):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(StudyError, match=r"pip install 'tokensieve\[ray\]'"):
        run_ray(planned().jobs, store, lambda _: None)
