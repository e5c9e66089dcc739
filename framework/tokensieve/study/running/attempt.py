"""Running one cell and recording its result or failure, and waiting for cells of other processes."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tokensieve.errors import text_of
from tokensieve.study.planning.jobs import Job
from tokensieve.study.rows import Cell, Failure
from tokensieve.study.running.runner import Runner
from tokensieve.study.store import Store

Status = Literal["done", "cached", "failed", "elsewhere"]
"""The status of a cell: run now, finished before, failed, or being run by another process."""
POLL_SECONDS = 1.0
"""Seconds between two checks of cells that another process runs."""


@dataclass(frozen=True)
class Result:
    """The result of a cell.

    Attributes:
        cell: the cell.
        status: its status.
        seconds: the time it took.
        reason: why it failed; empty otherwise.
    """

    cell: Cell
    status: Status
    seconds: float = 0.0
    reason: str = ""


@dataclass
class Summary:
    """The results of a study.

    Attributes:
        done: the number of cells that ran now.
        cached: the number of cells that were finished before, or by other processes.
        failed: the results of cells that failed now.
    """

    done: int = 0
    cached: int = 0
    failed: list[Result] = field(default_factory=list)

    def add(self, result: Result) -> None:
        """Count a result."""
        if result.status == "failed":
            self.failed.append(result)
        elif result.status == "done":
            self.done += 1
        else:
            self.cached += 1


OnResult = Callable[[Result], None]


def cell_name(cell: Cell) -> str:
    """Return the words by which messages name a cell: model, task, method and budget."""
    return " ".join(filter(None, (cell.model, cell.task, cell.method, cell.keep and f"keep {cell.keep}")))


def too_long(timeout: float) -> str:
    """Return what is said of a cell that took more seconds than it may."""
    return (
        f"it had not ended after {timeout:g} seconds, so its process was ended; if it needs more, raise `cell_timeout` "
        "of the study, or --cell-timeout"
    )


def run_cell(job: Job, store: Store, runner: Runner, since: float, *, interrupts: bool = False) -> Result:
    """Run a cell unless it is finished, and write its rows, or why it failed.

    An error fails this cell only, whatever its type.

    Args:
        job: the job of the cell.
        store: where the cell is written.
        runner: what runs the cell.
        since: when the run began. A cell that failed after that in another process is not tried again.
        interrupts: whether a KeyboardInterrupt is an error of the cell, as in a process that no Ctrl-C reaches.
    """
    key = job.cell.key
    with store.claim(key) as ours:
        if store.has(key):
            return Result(job.cell, "cached")
        if not ours:
            return Result(job.cell, "elsewhere")
        if store.failed_since(key, since):
            return Result(job.cell, "failed", reason="it failed in another process")
        started = time.perf_counter()
        try:
            store.write(*runner.run(job))
        # A model, a task or a plugin can raise anything, also what would end this process; and so can a full disk.
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and not interrupts:
                raise
            reason = _reason(error)
            failure = Failure(job.cell, reason, traceback.format_exc())
            if _out_of_memory(error):
                # The error holds tensors of the failed cell; the next cell loads the model again.
                del error
                runner.free()
            return record_failure(store, failure, time.perf_counter() - started)
        return Result(job.cell, "done", time.perf_counter() - started)


def _out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out. Errors of accelerators are recognised by their text."""
    return isinstance(error, MemoryError) or "out of memory" in text_of(error).lower()


def record_failure(store: Store, failure: Failure, seconds: float) -> Result:
    """Write why a cell failed, and return its result."""
    reason = failure.reason
    try:
        store.write_failure(failure)
    except OSError as error:
        reason += f" (which could not be written either: {error})"
    return Result(failure.cell, "failed", seconds, reason)


def _reason(error: BaseException) -> str:
    text = " ".join(text_of(error).split())
    kind = type(error).__name__
    return f"{kind}: {text if len(text) <= 1000 else text[:997] + '...'}" if text else kind


def wait_for_others(jobs: Sequence[Job], store: Store, since: float, on_result: OnResult) -> list[Job]:
    """Wait for cells that other processes run.

    Args:
        jobs: the jobs of these cells.
        store: where they are written.
        since: when this run began.
        on_result: called for every cell that is finished or failed.

    Returns:
        The cells that are left, as soon as no process runs one of them any more.
    """
    left = list(jobs)
    while left:
        free = 0
        for job in list(left):
            key = job.cell.key
            with store.claim(key) as ours:
                if store.has(key):
                    on_result(Result(job.cell, "cached"))
                elif store.failed_since(key, since):
                    on_result(Result(job.cell, "failed", reason="it failed in another process"))
                else:
                    free += ours
                    continue
            left.remove(job)
        if free:
            break
        if left:
            time.sleep(POLL_SECONDS)
    return left
