"""The local engine: cells one after the other, in this process or in several of this machine."""

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
"""What every process of the engine needs."""


def run_local(jobs: Sequence[Job], store: Store, registry: Registry, told: OnResult, workers: int = 1) -> Summary:
    """Run cells on this machine.

    Args:
        jobs: model by model.
        store: where finished cells go.
        registry: of this process; others make their own.
        told: called with every result, in this process.
        workers: processes; one runs in this process itself.
    """
    since = time.time()
    summary = Summary()

    def count(result: Result) -> None:
        summary.add(result)
        told(result)

    left = list(jobs)
    while left:
        elsewhere: list[Job] = []

        def sorted_out(job: Job, result: Result, elsewhere: list[Job] = elsewhere) -> None:
            if result.status == "elsewhere":
                elsewhere.append(job)
            else:
                count(result)

        if workers == 1:
            runner = Runner(registry)
            for job in left:
                sorted_out(job, run_cell(job, store, runner, since))
        else:
            _WorkerPool(left, store, since, workers, sorted_out).run()
        left = wait_for_others(elsewhere, store, since, count)
    return summary


@dataclass(eq=False)
class _Worker:
    """A process that runs cells.

    Attributes:
        process: it.
        connection: to it.
        job: what it runs, or none.
        latest: what it ran before.
    """

    process: BaseProcess
    connection: _ConnectionBase[Any, Any]
    job: Job | None = None
    latest: Job | None = None


class _WorkerPool:
    """Processes that run cells, each its own model's as long as there are some."""

    def __init__(
        self, jobs: Sequence[Job], store: Store, since: float, workers: int, told: Callable[[Job, Result], None]
    ) -> None:
        self._left = list(jobs)
        self._store = store
        self._since = since
        self._number = min(workers, len(jobs))
        self._told = told
        # Not forked from here: what has threads or an accelerator does not survive that. They come of a process that
        # has imported everything and run nothing, so that each starts at once.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(PRELOAD))
        self._workers: list[_Worker] = []

    def run(self) -> None:
        """Run everything."""
        try:
            self._workers = [self._start(number) for number in range(self._number)]
            for worker in self._workers:
                self._give(worker)
            while busy := [worker for worker in self._workers if worker.job is not None]:
                ready = wait([worker.connection for worker in busy])
                for worker in busy:
                    if worker.connection in ready:
                        self._take(worker)
        finally:
            for worker in self._workers:
                worker.connection.close()
                # In the middle of a cell only after an interrupt; its claim goes with it.
                if worker.job is not None:
                    worker.process.terminate()
                worker.process.join()

    def _start(self, number: int) -> _Worker:
        ours, theirs = self._context.Pipe()
        threads = max(1, (os.cpu_count() or 1) // self._number)
        arguments = (theirs, self._store.address, self._since, number, threads)
        process = self._context.Process(target=_work, args=arguments, daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _give(self, worker: _Worker) -> None:
        """Return a worker its next cell: of the model and task it has, or else of one that no other works on."""
        worker.job = None
        if not self._left:
            return
        mine = None if worker.latest is None else _group(worker.latest)
        groups = [_group(job) for job in self._left]
        taken = {_group(other.job) for other in self._workers if other.job is not None}
        place = next((i for i, group in enumerate(groups) if group == mine), None)
        if place is None:
            place = next((i for i, group in enumerate(groups) if group not in taken), 0)
        worker.job = worker.latest = self._left.pop(place)
        try:
            worker.connection.send(worker.job)
        except OSError:
            # It died while it had nothing to do; `_take` starts another and says so of this cell.
            return

    def _take(self, worker: _Worker) -> None:
        """Take a worker's result; a worker that died costs its cell, and another takes its place."""
        job = worker.job
        if job is None:
            return
        try:
            result: Result = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join()
            said = f"the process that ran it died (exit code {worker.process.exitcode}): out of memory, or killed"
            result = record_failure(self._store, Failure(job.cell, said, ""), 0.0)
            place = self._workers.index(worker)
            worker.connection.close()
            self._workers[place] = worker = self._start(place)
        self._told(job, result)
        self._give(worker)


def _group(job: Job) -> tuple[str, str]:
    return job.cell.model, job.cell.task


def _work(connection: _ConnectionBase[Any, Any], path: str, since: float, number: int, threads: int) -> None:
    """Run cells that come over a connection, until it ends."""
    import torch

    # An interrupt at the keyboard reaches all processes; the one that started us decides.
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
