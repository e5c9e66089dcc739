"""Running one cell: its result, whatever goes wrong, and cells that other processes run."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tokensieve.study.planning.jobs import Job
from tokensieve.study.rows import Cell, Failure
from tokensieve.study.running.runner import Runner
from tokensieve.study.store import Store

if TYPE_CHECKING:
    pass


Status = Literal["done", "cached", "failed", "elsewhere"]
"""What became of a cell: run now, there already, failed, or being run by another process."""
POLL_SECONDS = 1.0
"""Seconds between two looks at cells that another process runs."""


@dataclass(frozen=True)
class Result:
    """What became of a cell.

    Attributes:
        cell: which.
        status: what.
        seconds: that it took.
        reason: why it failed, or nothing.
    """

    cell: Cell
    status: Status
    seconds: float = 0.0
    reason: str = ""


@dataclass
class Summary:
    """What became of a study.

    Attributes:
        done: how many cells ran now.
        known: how many were there already, or were run by others.
        failed: those that failed now, with the reason.
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


def run_cell(job: Job, store: Store, runner: Runner, since: float) -> Result:
    """Run a cell unless it is there, and write it or why it failed.

    Whatever goes wrong costs this cell only.

    Args:
        job: which.
        store: where it goes.
        runner: runs it.
        since: when the run began: what another process failed after that is not tried again.
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
        # A model, a task or a plugin can raise anything, and so can a full disk.
        except Exception as error:
            reason = _reason(error)
            failure = Failure(job.cell, reason, traceback.format_exc())
            if _memory(error):
                # Nothing of the failed cell may stay there, and the next one finds the model anew.
                del error
                runner.forget()
            return record_failure(store, failure, time.perf_counter() - started)
        return Result(job.cell, "done", time.perf_counter() - started)


def _memory(error: Exception) -> bool:
    """Return whether memory ran out; accelerators say it in words."""
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower()


def record_failure(store: Store, failure: Failure, seconds: float) -> Result:
    """Write why a cell failed, and give that as its result."""
    reason = failure.reason
    try:
        store.fail(failure)
    except OSError as error:
        reason += f" (which could not be written either: {error})"
    return Result(failure.cell, "failed", seconds, reason)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    kind = type(error).__name__
    return f"{kind}: {text if len(text) <= 1000 else text[:997] + '...'}" if text else kind


def wait_for_others(jobs: Sequence[Job], store: Store, since: float, told: OnResult) -> list[Job]:
    """Wait for cells that other processes run.

    Args:
        jobs: what they run.
        store: where they write.
        since: when our own run began.
        told: called for every cell that is finished or failed.

    Returns:
        The cells that are still to be run once nobody runs some of them any more.
    """
    left = list(jobs)
    while left:
        free = 0
        for job in list(left):
            key = job.cell.key
            with store.claim(key) as ours:
                if store.has(key):
                    told(Result(job.cell, "cached"))
                elif store.failed_since(key, since):
                    told(Result(job.cell, "failed", reason="it failed in another process"))
                else:
                    free += ours
                    continue
            left.remove(job)
        if free:
            break
        if left:
            time.sleep(POLL_SECONDS)
    return left
