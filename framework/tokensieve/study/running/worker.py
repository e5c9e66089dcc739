"""The process in which cells run. Code of plugins may end it; the study goes on in another one."""

from __future__ import annotations

import faulthandler
import gc
import io
import multiprocessing
import os
import signal
import sys
import threading
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensieve.plugins.registry import default_registry
from tokensieve.study.planning.jobs import Job
from tokensieve.study.running.attempt import run_cell
from tokensieve.study.running.runner import Runner
from tokensieve.study.store import Store

if TYPE_CHECKING:
    from multiprocessing.connection import _ConnectionBase

BEGUN = "begun"
"""What a worker sends when it begins a cell; when the cell has ended, it sends the `Result`."""
_LONGEST_ALARM = 1e6
"""Seconds; Python's own alarm takes no endless time-outs."""


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker is told when it starts.

    Attributes:
        store: the address of the store.
        since: when the run began, in seconds since 1970.
        timeout: the seconds that a cell may take.
        traces: the file for the stacks of threads when a cell crashes the process, or takes too long.
        folder: the working folder.
        path: `sys.path`.
        environment: the environment variables.
        threads: the threads of torch; none for as many as torch takes by itself.
        number: the number of the worker, by which it takes an accelerator; none for the first one.
    """

    store: str
    since: float
    timeout: float
    traces: Path
    folder: str
    path: tuple[str, ...]
    environment: dict[str, str]
    threads: int | None
    number: int | None


def run_worker(connection: _ConnectionBase[Any, Any], setup: WorkerSetup) -> None:
    """Run the cells that come over a connection, until it is closed."""
    _settle(setup)
    own = os.getpid()
    store, runner = Store(setup.store), Runner(default_registry(), _device(setup))
    # Appended to, so that it can be emptied before every cell.
    with setup.traces.open("a", encoding="utf-8") as traces:
        faulthandler.enable(traces)
        while True:
            try:
                job: Job = connection.recv()
            except (EOFError, OSError):
                return
            traces.truncate(0)
            connection.send(BEGUN)
            faulthandler.dump_traceback_later(min(setup.timeout, _LONGEST_ALARM), file=traces)
            # No Ctrl-C comes here, so a KeyboardInterrupt is one of the cell's own.
            result = run_cell(job, store, runner, setup.since, interrupts=True)
            faulthandler.cancel_dump_traceback_later()
            if os.getpid() != own:
                # A plugin forked, and this is the child; the answer is the parent's to give.
                os._exit(1)
            connection.send(result)


def _settle(setup: WorkerSetup) -> None:
    """Make this process as alike to the one that started it as it can be, and let it end with that one."""
    # What was imported before the fork is never garbage: looking at it takes time, and memory that is shared till then.
    gc.freeze()
    # What a plugin starts can be ended together with this process.
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.clear()
    os.environ.update(setup.environment)
    sys.path[:] = setup.path
    os.chdir(setup.folder)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What a plugin prints is not lost when the process ends.
        sys.stdout.reconfigure(line_buffering=True)
    if setup.threads is not None:
        import torch

        torch.set_num_threads(setup.threads)


def _end_with_parent() -> None:
    """Wait until the process that started this one has ended, and end at once: a hung cell would run for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.killpg(0, signal.SIGKILL)


def _device(setup: WorkerSetup) -> str | None:
    import torch

    if setup.number is None or not torch.cuda.is_available():
        return None
    return f"cuda:{setup.number % torch.cuda.device_count()}"
