"""Engines: every cell once, whatever happens to processes, disks, pictures and plugins."""

import errno
import random
import signal
import time
from pathlib import Path

import pytest

import tokensieve as ts
from tokensieve.study import store as store_module
from tokensieve.study.running.attempt import Summary, run_cell
from tokensieve.study.running.local_engine import run_local
from tokensieve.study.running.runner import Runner
from tokensieve.study.store import Store

from . import fake
from .made import timeless

FAULTY = "{{name: {name}, strategies: {{f: {{use: faulty, how: {how}}}}}, select: f}}"


def begin(store, jobs):
    store.begin("name: x\n", {"keys": [job.cell.key for job in jobs], "skipped": []})


def run(jobs, store, registry):
    """Run cells in this process, where tests can change things; `test_workers.py` runs them as users do."""
    seen = []
    summary = run_local(jobs, store, registry, seen.append, in_process=True)
    return summary, seen


def contents(store):
    return {key: timeless(store.read(key)[1]) for key in sorted(store.finished())}


@pytest.fixture
def jobs(planned):
    return planned("[gsp]", tasks="[{use: colours, questions: 3}]", more="seeds: [0]").jobs


@pytest.fixture
def many(planned):
    return planned("[gsp, qcsp]", "[4, 9]", "[{use: colours, questions: 3}]", more="seeds: [0, 1, 2]").jobs


def test_what_is_finished_is_not_run_again(jobs, store, registry):
    begin(store, jobs)
    first, seen = run(jobs, store, registry)
    assert (first.done, first.cached, first.failed) == (len(jobs), 0, [])
    assert [result.cell.key for result in seen] == [job.cell.key for job in jobs]
    assert all(result.seconds > 0 for result in seen)
    before = contents(store)
    assert len(before) == len(jobs)
    again, seen = run(jobs, store, registry)
    assert (again.done, again.cached) == (0, len(jobs))
    assert {result.status for result in seen} == {"cached"}
    assert contents(store) == before


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("raise", "ValueError: a plugin's own mistake"),
        ("memory", "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"),
        ("memory of the machine", "MemoryError"),
        ("exit", "SystemExit: 0"),
        ("generator exit", "GeneratorExit"),
        ("cancel", "CancelledError"),
        ("unreadable", "NoTextError: its text cannot be read, because of a SystemExit"),
    ],
)
def test_a_failure_costs_its_cell(planned, store, registry, how, reason):
    jobs = planned(f"[{FAULTY.format(name='bad', how=how)}, gsp]", tasks="[{use: colours, questions: 2}]").jobs
    jobs = [job for job in jobs if job.cell.method in ("unpruned", "bad", "gsp")]
    begin(store, jobs)
    summary, _ = run(jobs, store, registry)
    assert summary.done == 2
    (failed,) = summary.failed
    assert (failed.cell.method, failed.reason) == ("bad", reason)
    (written,) = store.failures()
    assert (written.cell, written.reason) == (failed.cell, reason)
    assert "Traceback" in written.trace
    assert "in score" in written.trace


def test_an_unreadable_picture_costs_its_cell(planned, store, registry):
    tasks = "[{use: colours, name: torn, unreadable: 1}, colours]"
    jobs = [job for job in planned(tasks=tasks).jobs if job.cell.role == "unpruned"]
    begin(store, jobs)
    summary, _ = run(jobs, store, registry)
    assert (summary.done, [one.cell.task for one in summary.failed]) == (1, ["torn"])
    assert summary.failed[0].reason.startswith("TaskError: the picture of 's1' cannot be read")


def test_what_failed_is_tried_again(jobs, store, registry, monkeypatch):
    begin(store, jobs[:2])
    monkeypatch.setattr(fake.Colours, "grade", lambda *_: 1 / 0)
    assert len(run(jobs[:2], store, registry)[0].failed) == 2
    monkeypatch.undo()
    assert run(jobs[:2], store, registry)[0].done == 2
    assert store.failures() == []


def test_a_full_disk_costs_the_cells_that_it_cannot_hold(jobs, store, registry, monkeypatch):
    real, full = store_module.write_atomically, [True]

    def put(file, content, replace):
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, content, replace)

    begin(store, jobs[:3])
    monkeypatch.setattr(store_module, "write_atomically", put)
    # The second cell finds room again.
    since, runner = time.time(), Runner(registry)
    first = run_cell(jobs[0], store, runner, since)
    full[0] = False
    second = run_cell(jobs[1], store, runner, since)
    assert (first.status, second.status) == ("failed", "done")
    assert first.reason.count("No space left on device") == 2
    assert "could not be written either" in first.reason
    assert store.keys() == [jobs[1].cell.key]
    assert run(jobs[:3], store, registry)[0].done == 2


def test_what_another_process_runs_is_waited_for(jobs, store, registry, monkeypatch):
    begin(store, jobs[:2])
    monkeypatch.setattr("tokensieve.study.running.attempt.POLL_SECONDS", 0.01)
    runner, waited = Runner(registry), []

    def sleep(_):
        """The other process goes on while we wait."""
        waited.append(1)
        if len(waited) == 2:
            store.write(*runner.run(jobs[0]))
            other.__exit__(None, None, None)

    other = Store(store.path).claim(jobs[0].cell.key)
    assert other.__enter__()
    monkeypatch.setattr("tokensieve.study.running.attempt.time.sleep", sleep)
    summary, _ = run(jobs[:2], store, registry)
    assert (summary.done, summary.cached) == (1, 1)
    assert len(waited) == 2


def test_a_cell_whose_process_died_is_taken_over(jobs, store, registry, monkeypatch):
    begin(store, jobs[:1])
    other = Store(store.path).claim(jobs[0].cell.key)
    assert other.__enter__()
    monkeypatch.setattr("tokensieve.study.running.attempt.time.sleep", lambda _: other.__exit__(None, None, None))
    assert run(jobs[:1], store, registry)[0].done == 1


# Several processes


def work(path, jobs, sums=None):
    registry = ts.default_registry()
    registry.register(fake, fake.__name__)
    summary = run_local(jobs, Store(path), registry, lambda _: None, in_process=True)
    if sums is not None:
        sums.put((summary.done, summary.cached, len(summary.failed)))


@pytest.mark.nightly
def test_killed_at_any_moment_and_run_twice_at_once(many, store, registry, processes, tmp_path):
    jobs = many
    reference = Store(tmp_path / "reference")
    begin(reference, jobs)
    run(jobs, reference, registry)
    begin(store, jobs)
    draw = random.Random(3)  # noqa: S311 - moments, no secrets
    ends = []
    for _ in range(4):
        both = [processes.Process(target=work, args=(store.path, jobs)) for _ in range(2)]
        for one in both:
            one.start()
        known = len(store.finished())
        # On a fast machine all cells may be done before the last round.
        while len(store.finished()) == known and any(one.is_alive() for one in both):
            time.sleep(0.005)
        time.sleep(draw.random() * 0.1)
        for one in both:
            one.kill()
            one.join()
        ends += [one.exitcode for one in both]
    assert -signal.SIGKILL in ends
    assert set(ends) <= {0, -signal.SIGKILL}
    left = len(jobs) - len(store.finished())
    sums = processes.Queue()
    both = [processes.Process(target=work, args=(store.path, jobs, sums)) for _ in range(2)]
    for one in both:
        one.start()
    found = [sums.get(timeout=60) for _ in both]
    for one in both:
        one.join()
    # Nothing is lost, nothing is double, and two processes share what is left.
    assert sum(done for done, _, _ in found) == left
    assert all(done + known == len(jobs) and not failed for done, known, failed in found)
    assert contents(store) == contents(reference)
    assert sorted(path.name for path in Path(store.path, "cells").glob("*.parquet")) == sorted(
        f"{job.cell.key}.parquet" for job in jobs
    )


def test_summaries_count():
    assert (Summary().done, Summary().cached, Summary().failed) == (0, 0, [])
