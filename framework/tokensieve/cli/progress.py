"""Progress of long work on stderr: a bar on a terminal, and a plain line every half minute elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tokensieve.cli import console

EVERY = 30.0
"""Seconds between two lines where stderr is no terminal, such as a log."""

Report = Callable[[int, int, str], None]
"""Is told how much is done, of how much, and what goes on now."""


@contextmanager
def reported(clock: Callable[[], float] = time.monotonic) -> Iterator[Report]:
    """Return what reports progress inside the block.

    Args:
        clock: the time in seconds.
    """
    stderr = Console(stderr=True)
    if stderr.is_terminal:
        with _bar(stderr) as report:
            yield report
        return
    started = last = clock()

    def say(done: int, total: int, what: str) -> None:
        nonlocal last
        now = clock()
        if now - last >= EVERY:
            last = now
            console.warn(f"{done} of {total} after {now - started:.0f} s: {what}")

    yield say


def bar(stderr: Console, over: float = 30) -> Progress:
    """Return a bar that says how much is done, how long it took, what is left, and what goes on now.

    Args:
        stderr: where it is drawn.
        over: the seconds from whose speed the time that is left is estimated.
    """
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.description}"), console=stderr, speed_estimate_period=over)


@contextmanager
def _bar(stderr: Console) -> Iterator[Report]:
    with bar(stderr) as progress:
        task = progress.add_task("", total=None)

        def show(done: int, total: int, what: str) -> None:
            progress.update(task, completed=done, total=total, description=console.plain(what))

        yield show
