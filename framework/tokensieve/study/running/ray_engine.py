"""The Ray engine: runs cells as tasks of a Ray cluster, and writes them to the same store."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from tokensieve.errors import StudyError
from tokensieve.plugins.registry import default_registry
from tokensieve.study.planning.jobs import Job
from tokensieve.study.rows import Failure
from tokensieve.study.running.attempt import (
    OnResult,
    Result,
    Summary,
    cell_name,
    record_failure,
    run_cell,
    too_long,
    wait_for_others,
)
from tokensieve.study.running.runner import Runner
from tokensieve.study.spec.study import CELL_TIMEOUT
from tokensieve.study.store import Store

RETRIES = 3
"""How often a cell is tried again after its process or machine was lost."""
QUEUED_PER_SLOT = 4
"""The number of cells in Ray's queue for each cell that can run at the same time."""

_runners: dict[int, Runner] = {}
"""The runner of this process. Ray runs several cells in one process, so a model is loaded once."""


def run_ray(
    jobs: Sequence[Job],
    store: Store,
    on_result: OnResult,
    *,
    cpus: float = 1.0,
    gpus: float = 0.0,
    address: str | None = None,
    timeout: float = CELL_TIMEOUT,
) -> Summary:
    """Run cells on a Ray cluster: the current one, the one at `address`, or a new one on this machine.

    A cell whose process or machine is lost is tried again, up to `RETRIES` times.

    Args:
        jobs: the jobs, model by model.
        store: a store that all machines of the cluster reach.
        on_result: called with every result, in this process.
        cpus: the CPUs for a cell.
        gpus: the GPUs for a cell; below one, several cells share a GPU.
        address: the address of the cluster.
        timeout: the seconds that a cell may take, with loading its model; then its process ends, and the cell fails.

    Raises:
        StudyError: if Ray is not installed, or there is no such cluster.
    """
    ray = _import_ray()
    started = not ray.is_initialized()
    if started:
        try:
            ray.init(address=address, log_to_driver=False, include_dashboard=False)
        # Ray raises many kinds of error if there is no cluster.
        except Exception as error:
            raise StudyError(f"no Ray cluster can be joined or started: {error}") from None
    try:
        return _Driver(ray, jobs, store, on_result, cpus, gpus, timeout).run()
    finally:
        if started:
            ray.shutdown()


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise StudyError("the Ray engine needs Ray: pip install 'tokensieve[ray]'") from None
    return ray


def run_one(job: Job, path: str, since: float, timeout: float) -> Result:
    """Run a cell in a process of the cluster, which ends if the cell takes longer than `timeout` seconds."""
    runner = _runners.get(0)
    if runner is None:
        runner = _runners[0] = Runner(default_registry())
    store = Store(path)
    alarm = threading.Timer(min(timeout, threading.TIMEOUT_MAX), _give_up, (job, store, timeout))
    alarm.daemon = True
    alarm.start()
    try:
        # No Ctrl-C comes here, so a KeyboardInterrupt is one of the cell's own.
        return run_cell(job, store, runner, since, interrupts=True)
    finally:
        alarm.cancel()


def _give_up(job: Job, store: Store, timeout: float) -> None:
    """Write that a cell took too long, and end its process. It fails where it is tried again; see `run_cell`."""
    record_failure(store, Failure(job.cell, f"{cell_name(job.cell)}: {too_long(timeout)}", ""), timeout)
    os._exit(1)


class _Driver:
    """Keeps Ray's queue filled, and collects the results."""

    def __init__(
        self,
        ray: Any,
        jobs: Sequence[Job],
        store: Store,
        on_result: OnResult,
        cpus: float,
        gpus: float,
        timeout: float,
    ) -> None:
        self._ray = ray
        self._store = store
        self._since = time.time()
        self._left = list(jobs)
        self._losses: dict[str, int] = {}
        self._summary = Summary()
        self._on_result = on_result
        # The driver submits lost cells again. Ray's own retries would not be counted.
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0}
        self._submit: Callable[..., Any] = ray.remote(**options)(run_one).remote
        self._cpus = cpus
        self._timeout = timeout

    def run(self) -> Summary:
        """Run everything."""
        while self._left:
            elsewhere = self._run_once()
            self._left = wait_for_others(elsewhere, self._store, self._since, self._count)
        return self._summary

    def _count(self, result: Result) -> None:
        self._summary.add(result)
        self._on_result(result)

    def _run_once(self) -> list[Job]:
        running: dict[Any, Job] = {}
        elsewhere: list[Job] = []
        while self._left or running:
            while self._left and len(running) < self._queue_length():
                job = self._left.pop(0)
                running[self._submit(job, self._store.address, self._since, self._timeout)] = job
            ready, _ = self._ray.wait(list(running), num_returns=1)
            for reference in ready:
                self._collect(reference, running.pop(reference), elsewhere)
        return elsewhere

    def _queue_length(self) -> int:
        total = float(self._ray.cluster_resources().get("CPU", 1))
        return max(1, int(total / max(self._cpus, 0.01))) * QUEUED_PER_SLOT

    def _collect(self, reference: Any, job: Job, elsewhere: list[Job]) -> None:
        try:
            result: Result = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._retry(job, error)
            return
        if result.status == "elsewhere":
            elsewhere.append(job)
        else:
            self._count(result)

    def _retry(self, job: Job, error: Exception) -> None:
        """Submit a cell again whose process or machine was lost; after `RETRIES` times, it fails."""
        key = job.cell.key
        self._losses[key] = self._losses.get(key, 0) + 1
        if self._losses[key] <= RETRIES:
            self._left.append(job)
            return
        message = " ".join(str(error).split())[:500]
        reason = f"its process was lost {self._losses[key]} times: {type(error).__name__}: {message}"
        self._count(record_failure(self._store, Failure(job.cell, reason, ""), 0.0))
