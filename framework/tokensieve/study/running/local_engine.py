"""The local engine: runs cells in this process, or in several processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from tokensieve.plugins.registry import Registry, default_registry
from tokensieve.study.planning.jobs import Job
from tokensieve.study.rows import Failure
from tokensieve.study.running.runner import Runner
from tokensieve.study.store import Store

if TYPE_CHECKING:
    from multiprocessing.connection import _ConnectionBase
from tokensieve.study.running.attempt import OnResult, Result, Summary, record_failure, run_cell, wait_for_others

PRELOAD = ("tokensieve.study.running.local_engine", "transformers", "torchvision", "pyarrow.parquet", "fsspec")
"""Modules that every process of the engine needs; they are imported before processes are started."""


def run_local(jobs: Sequence[Job], store: Store, registry: Registry, on_result: OnResult, workers: int = 1) -> Summary:
    """Run cells on this machine.

    Args:
        jobs: the jobs, model by model.
        store: where finished cells are written.
        registry: the registry of this process; other processes make their own.
        on_result: called with every result, in this process.
        workers: the number of processes; with one, cells run in this process.
    """
    since = time.time()
    summary = Summary()

    def count(result: Result) -> None:
        summary.add(result)
        on_result(result)

    left = list(jobs)
    while left:
        elsewhere: list[Job] = []

        def collect(job: Job, result: Result, elsewhere: list[Job] = elsewhere) -> None:
            if result.status == "elsewhere":
                elsewhere.append(job)
            else:
                count(result)

        if workers == 1:
            runner = Runner(registry)
            for job in left:
                collect(job, run_cell(job, store, runner, since))
        else:
            _WorkerPool(left, store, since, workers, collect).run()
        left = wait_for_others(elsewhere, store, since, count)
    return summary


@dataclass(eq=False)
class _Worker:
    """A process that runs cells.

    Attributes:
        process: the process.
        connection: the connection to it.
        job: the job that it runs, or none.
        latest: the latest job that it was given, or none.
    """

    process: BaseProcess
    connection: _ConnectionBase[Any, Any]
    job: Job | None = None
    latest: Job | None = None


class _WorkerPool:
    """Processes that run cells; each keeps to one model and task as long as these have cells left."""

    def __init__(
        self, jobs: Sequence[Job], store: Store, since: float, workers: int, on_result: Callable[[Job, Result], None]
    ) -> None:
        self._left = list(jobs)
        self._store = store
        self._since = since
        self._number = min(workers, len(jobs))
        self._on_result = on_result
        # A process with threads or an accelerator cannot be forked safely. Workers are forked from a server process
        # that has imported everything and run nothing, so they start quickly.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(PRELOAD))
        self._workers: list[_Worker] = []

    def run(self) -> None:
        """Run everything."""
        try:
            self._workers = [self._start(number) for number in range(self._number)]
            for worker in self._workers:
                self._assign(worker)
            while busy := [worker for worker in self._workers if worker.job is not None]:
                ready = wait([worker.connection for worker in busy])
                for worker in busy:
                    if worker.connection in ready:
                        self._receive(worker)
        finally:
            for worker in self._workers:
                worker.connection.close()
                # A worker has a job here only after an interrupt; its claim ends with the process.
                if worker.job is not None:
                    worker.process.terminate()
                worker.process.join()

    def _start(self, number: int) -> _Worker:
        own_end, worker_end = self._context.Pipe()
        threads = max(1, (os.cpu_count() or 1) // self._number)
        arguments = (worker_end, self._store.address, self._since, number, threads)
        process = self._context.Process(target=_run_worker, args=arguments, daemon=True)
        process.start()
        worker_end.close()
        return _Worker(process, own_end)

    def _assign(self, worker: _Worker) -> None:
        """Send a worker its next job: of its model and task, or else of a model and task that no other worker has."""
        worker.job = None
        if not self._left:
            return
        own = None if worker.latest is None else _model_and_task(worker.latest)
        groups = [_model_and_task(job) for job in self._left]
        taken = {_model_and_task(other.job) for other in self._workers if other.job is not None}
        place = next((i for i, group in enumerate(groups) if group == own), None)
        if place is None:
            place = next((i for i, group in enumerate(groups) if group not in taken), 0)
        worker.job = worker.latest = self._left.pop(place)
        try:
            worker.connection.send(worker.job)
        except OSError:
            # The process has died; `_receive` starts another and records the failure of this cell.
            return

    def _receive(self, worker: _Worker) -> None:
        """Receive a result. If the worker has died, its cell fails, and another worker is started."""
        job = worker.job
        if job is None:
            return
        try:
            result: Result = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join()
            reason = f"the process that ran it died (exit code {worker.process.exitcode}): out of memory, or killed"
            result = record_failure(self._store, Failure(job.cell, reason, ""), 0.0)
            place = self._workers.index(worker)
            worker.connection.close()
            self._workers[place] = worker = self._start(place)
        self._on_result(job, result)
        self._assign(worker)


def _model_and_task(job: Job) -> tuple[str, str]:
    return job.cell.model, job.cell.task


def _run_worker(connection: _ConnectionBase[Any, Any], path: str, since: float, number: int, threads: int) -> None:
    """Run the cells that come over a connection, until it is closed."""
    import torch

    # Ctrl+C reaches all processes; the main process decides what happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    device = f"cuda:{number % torch.cuda.device_count()}" if torch.cuda.is_available() else None
    store, runner = Store(path), Runner(default_registry(), device)
    while True:
        try:
            job: Job = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(run_cell(job, store, runner, since))
