"""Worker processes: they are given cells, replaced when they die, and killed when they hang."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tokensieve.errors import StudyError, short_message
from tokensieve.study.planning.jobs import Job
from tokensieve.study.rows import Failure
from tokensieve.study.running.attempt import Result, cell_name, record_failure, too_long
from tokensieve.study.running.worker import BEGUN, WorkerSetup, run_worker
from tokensieve.study.store import Store

if TYPE_CHECKING:
    from multiprocessing.connection import _ConnectionBase

PRELOAD = (
    "tokensieve.study.running.worker",
    "tokensieve_adapters",
    "tokensieve_strategies",
    "transformers",
    "transformers.generation.utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.processing_auto",
    "torchvision",
    "pyarrow.parquet",
    "fsspec",
)
"""Modules that every worker needs; they are imported before workers are started."""
KILL_SECONDS = 0.3
"""Seconds between a cell's time-out, when its process writes where it is, and the end of the process."""
END_SECONDS = 5.0
"""Seconds that a process without a cell has to end by itself."""
_LONGEST_WAIT = 3600.0
_PAUSES = (0.1, 0.5, 2.0)
"""Seconds between tries to start a process."""
_IN_NATIVE_CODE = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
_SAFE_PATH = "PYTHONSAFEPATH"
_starting = threading.Lock()


@dataclass(eq=False)
class Worker:
    """A process that runs cells.

    Attributes:
        process: the process.
        connection: the connection to it.
        traces: the file to which it writes where it crashed or hung.
        job: the job that it was given and has not ended, or none.
        latest: the latest job that it was given, or none.
        begun: whether it has begun that job.
        cells: how many cells it has begun.
        timeout: the seconds that its job may take.
        deadline: when its job must have ended, by `time.monotonic`.
    """

    process: BaseProcess
    connection: _ConnectionBase[Any, Any]
    traces: Path
    job: Job | None = None
    latest: Job | None = None
    begun: bool = False
    cells: int = 0
    timeout: float = 0.0
    deadline: float = 0.0

    def give(self, job: Job, timeout: float) -> None:
        """Send a job. If the process has died, that is seen when its answer is waited for."""
        self.job = self.latest = job
        self.begun, self.timeout = False, timeout
        self.deadline = time.monotonic() + timeout + KILL_SECONDS
        with contextlib.suppress(OSError):
            self.connection.send(job)

    def begin(self) -> None:
        """Note that the job has begun; its time counts from here."""
        self.begun, self.deadline = True, time.monotonic() + self.timeout + KILL_SECONDS
        self.cells += 1

    def end(self, patience: float) -> int | None:
        """End the process and all that it started; return its exit code, or none if it had to be killed."""
        self.connection.close()
        self.process.join(patience)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
        if self.process.pid is not None:
            # Nothing is left to kill where a worker started no process.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join()
        return code

    def trace(self) -> str:
        """Return where the process crashed or hung, as far as it could write it."""
        return self.traces.read_text(encoding="utf-8", errors="replace") if self.traces.exists() else ""


class WorkerPool:
    """Processes that run cells; each keeps to one model and task as long as these have cells left.

    A cell whose process ends fails, and so does one that takes too long. If the process had run other cells before,
    what ended it may be theirs: the cell is then run once more, in a new process.

    Args:
        jobs: the jobs.
        store: where finished cells are written.
        since: when the run began, in seconds since 1970.
        workers: the number of processes.
        timeout: the seconds that a cell may take, with loading its model.
        on_result: called with every job that has ended, and its result.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        store: Store,
        since: float,
        workers: int,
        timeout: float,
        on_result: Callable[[Job, Result], None],
    ) -> None:
        self._left = list(jobs)
        self._store = store
        self._since = since
        self._number = min(workers, len(jobs))
        self._timeout = timeout
        self._on_result = on_result
        self._workers: list[Worker] = []
        self._started = 0
        self._again: set[str] = set()

    def run(self) -> None:
        """Run everything."""
        with TemporaryDirectory(prefix="tokensieve-") as folder:
            self._folder = Path(folder)
            try:
                for number in range(self._number):
                    self._workers.append(self._start(number))
                for worker in self._workers:
                    self._assign(worker)
                while busy := [worker for worker in self._workers if worker.job is not None]:
                    self._wait(busy)
            finally:
                for worker in self._workers:
                    # A worker has a job here only after an interrupt; its claim ends with the process.
                    worker.end(END_SECONDS if worker.job is None else 0.0)

    def _start(self, number: int) -> Worker:
        context = multiprocessing.get_context("forkserver")
        # A process with threads or an accelerator cannot be forked safely. Workers are forked from a server process
        # that has imported everything and run nothing, so they start quickly.
        context.set_forkserver_preload(list(PRELOAD))
        own_end, worker_end = context.Pipe()
        alone = self._number == 1
        self._started += 1
        setup = WorkerSetup(
            store=self._store.address,
            since=self._since,
            timeout=self._timeout,
            traces=self._folder / f"{self._started}.txt",
            folder=str(Path.cwd()),
            path=tuple(sys.path),
            environment=dict(os.environ),
            threads=None if alone else max(1, (os.cpu_count() or 1) // self._number),
            number=None if alone else number,
        )
        # No daemon: those may not start processes, and plugins may.
        process = context.Process(target=run_worker, args=(worker_end, setup), daemon=False)
        _start_process(process)
        worker_end.close()
        return Worker(process, own_end, setup.traces)

    def _assign(self, worker: Worker) -> None:
        """Give a worker its next job: of its model and task, or else of a model and task that no other worker has."""
        worker.job = None
        if not self._left:
            return
        own = None if worker.latest is None else _model_and_task(worker.latest)
        groups = [_model_and_task(job) for job in self._left]
        taken = {_model_and_task(other.job) for other in self._workers if other.job is not None}
        place = next((i for i, group in enumerate(groups) if group == own), None)
        if place is None:
            place = next((i for i, group in enumerate(groups) if group not in taken), 0)
        worker.give(self._left.pop(place), self._timeout)

    def _wait(self, busy: Sequence[Worker]) -> None:
        """Wait until a worker has something to say, has died, or takes too long."""
        seconds = min(worker.deadline for worker in busy) - time.monotonic()
        # The end of a process is seen by its sentinel: what it started may hold its connection open.
        watched = [one for worker in busy for one in (worker.connection, worker.process.sentinel)]
        ready = wait(watched, max(0.0, min(seconds, _LONGEST_WAIT)))
        for worker in busy:
            if worker.connection in ready:
                self._receive(worker)
            elif worker.process.sentinel in ready:
                self._replace(worker, hung=False)
            elif time.monotonic() >= worker.deadline:
                self._replace(worker, hung=True)

    def _receive(self, worker: Worker) -> None:
        job = worker.job
        try:
            message: Result | str = worker.connection.recv()
        # The end of the connection; or anything, if code of a plugin wrote into it.
        except Exception:
            self._replace(worker, hung=False)
            return
        if isinstance(message, Result) and job is not None:
            self._on_result(job, message)
            self._assign(worker)
        elif message == BEGUN:
            worker.begin()

    def _replace(self, worker: Worker, hung: bool) -> None:
        """End a worker that died or hangs, and go on in another one; its cell fails, or is run once more there."""
        job, place = worker.job, self._workers.index(worker)
        code = worker.end(0.0 if hung else END_SECONDS)
        if job is None:
            return
        key = job.cell.key
        # What was done before, or what never began, is not the fault of this cell.
        again = not hung and key not in self._again and (worker.cells > 1 or not worker.begun)
        if self._store.has(key):
            self._on_result(job, Result(job.cell, "done"))
        elif again:
            self._again.add(key)
        else:
            how = too_long(worker.timeout) if hung else _ended(code)
            reason = f"{cell_name(job.cell)}: {how}. {_ADVICE}"
            self._on_result(job, record_failure(self._store, Failure(job.cell, reason, worker.trace()), 0.0))
            again = False
        worker.job = None
        if again or self._left:
            self._workers[place] = fresh = self._start(place)
            if again:
                fresh.give(job, self._timeout)
            else:
                self._assign(fresh)


_ADVICE = "The others go on in a new process. To see what this cell does, run it with --in-process under a debugger"


def _ended(code: int | None) -> str:
    """Return how a process ended, and why that may be."""
    if code is None:
        return "its process closed its connection, and was killed"
    if code >= 0:
        return (
            f"its process ended with exit code {code} in the middle of the cell: code of a plugin, the model or the "
            "task ended it, as os._exit does"
        )
    number = -code
    name = signal.Signals(number).name if number in list(signal.Signals) else "unknown"
    why = "in native code" if number in _IN_NATIVE_CODE else "by the system when memory ran out, or by somebody"
    what = "crashed" if number in _IN_NATIVE_CODE else "was killed"
    return f"its process {what} {why} (signal {number}, {name})"


def _start_process(process: BaseProcess) -> None:
    """Start a process that does not run the caller's script again, which a script without a guard does not stand.

    Raises:
        StudyError: if it cannot be started, nor by a new server.
    """
    for pause in (*_PAUSES, None):
        try:
            with _starting, _without_main(), _without_working_folder():
                process.start()
        # A plugin may have ended the server; the next try starts another one, once this one is gone.
        except (OSError, EOFError) as error:
            if pause is None:
                raise StudyError(
                    f"no worker process can be started ({short_message(error)}); try --in-process"
                ) from None
            time.sleep(pause)
        else:
            return


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Hide the caller's script from multiprocessing; workers need nothing of it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _without_working_folder() -> Iterator[None]:
    """Keep the server of workers, which is started as `python -c`, from importing what lies in the working folder.

    A folder `mlx` there would be a library for transformers, and a file `queue.py` Python's own module. Workers get the
    caller's path and environment.
    """
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        del os.environ[_SAFE_PATH]
        if before is not None:
            os.environ[_SAFE_PATH] = before


def _model_and_task(job: Job) -> tuple[str, str]:
    return job.cell.model, job.cell.task
