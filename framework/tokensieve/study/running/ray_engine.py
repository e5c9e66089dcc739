"""The Ray engine: the same cells as tasks of a cluster, into the same store."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from tokensieve.errors import StudyError
from tokensieve.plugins.registry import default_registry
from tokensieve.study.planning.jobs import Job
from tokensieve.study.rows import Failure
from tokensieve.study.running.attempt import OnResult, Result, Summary, record_failure, run_cell, wait_for_others
from tokensieve.study.running.runner import Runner
from tokensieve.study.store import Store

RETRIES = 3
"""How often a cell is tried whose process or machine was lost."""
AHEAD = 4
"""How many cells wait in Ray's queue for each one that can run at once."""

_runners: dict[int, Runner] = {}
"""The runner of this process: Ray runs several cells in one process, which then loads a model once."""


def run_ray(
    jobs: Sequence[Job],
    store: Store,
    told: OnResult,
    *,
    cpus: float = 1.0,
    gpus: float = 0.0,
    address: str | None = None,
) -> Summary:
    """Run cells on a Ray cluster: the one that this process is in, that of `address`, or a new one on this machine.

    A cell whose process or machine is lost is tried again, `RETRIES` times.

    Args:
        jobs: model by model.
        store: a folder or address that all machines of the cluster reach.
        told: called with every result, in this process.
        cpus: that a cell takes.
        gpus: that a cell takes; a part of one lets several cells share it.
        address: of the cluster.

    Raises:
        StudyError: if Ray is not installed, or there is no such cluster.
    """
    ray = _ray()
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(address=address, log_to_driver=False, include_dashboard=False)
        # What it raises where there is no cluster is not one kind.
        except Exception as error:
            raise StudyError(f"no Ray cluster can be joined or started: {error}") from None
    try:
        return _Driver(ray, jobs, store, told, cpus, gpus).run()
    finally:
        if ours:
            ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise StudyError("the Ray engine needs Ray: pip install 'tokensieve[ray]'") from None
    return ray


def run_one(job: Job, path: str, since: float) -> Result:
    """Run a cell in a process of the cluster."""
    runner = _runners.get(0)
    if runner is None:
        runner = _runners[0] = Runner(default_registry())
    return run_cell(job, Store(path), runner, since)


class _Driver:
    """Keeps Ray's queue filled, and takes what comes back."""

    def __init__(self, ray: Any, jobs: Sequence[Job], store: Store, told: OnResult, cpus: float, gpus: float) -> None:
        self._ray = ray
        self._store = store
        self._since = time.time()
        self._left = list(jobs)
        self._losses: dict[str, int] = {}
        self._summary = Summary()
        self._told = told
        # The driver itself submits again what was lost: Ray's own retries would not say so.
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0}
        self._submit: Callable[..., Any] = ray.remote(**options)(run_one).remote
        self._cpus = cpus

    def run(self) -> Summary:
        """Run everything."""
        while self._left:
            elsewhere = self._round()
            self._left = wait_for_others(elsewhere, self._store, self._since, self._count)
        return self._summary

    def _count(self, result: Result) -> None:
        self._summary.add(result)
        self._told(result)

    def _round(self) -> list[Job]:
        running: dict[Any, Job] = {}
        elsewhere: list[Job] = []
        while self._left or running:
            while self._left and len(running) < self._width():
                job = self._left.pop(0)
                running[self._submit(job, self._store.address, self._since)] = job
            ready, _ = self._ray.wait(list(running), num_returns=1)
            for reference in ready:
                self._take(reference, running.pop(reference), elsewhere)
        return elsewhere

    def _width(self) -> int:
        total = float(self._ray.cluster_resources().get("CPU", 1))
        return max(1, int(total / max(self._cpus, 0.01))) * AHEAD

    def _take(self, reference: Any, job: Job, elsewhere: list[Job]) -> None:
        try:
            result: Result = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._lost(job, error)
            return
        if result.status == "elsewhere":
            elsewhere.append(job)
        else:
            self._count(result)

    def _lost(self, job: Job, error: Exception) -> None:
        """Try a cell again whose process or machine is gone, or give it up."""
        key = job.cell.key
        self._losses[key] = self._losses.get(key, 0) + 1
        if self._losses[key] <= RETRIES:
            self._left.append(job)
            return
        said = " ".join(str(error).split())[:500]
        reason = f"its process was lost {self._losses[key]} times: {type(error).__name__}: {said}"
        self._count(record_failure(self._store, Failure(job.cell, reason, ""), 0.0))
