"""Progress of long work on stderr: a bar on a terminal, and a plain line every half minute elsewhere."""

from __future__ import annotations

import threading
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
def reported(clock: Callable[[], float] = time.monotonic, over: float = 30, every: float = EVERY) -> Iterator[Report]:
    """Return what reports progress inside the block.

    Where stderr is no terminal, a line is printed every so often also while one piece of work takes longer than that.

    Args:
        clock: the time in seconds.
        over: the seconds from whose speed a bar estimates the time that is left.
        every: the seconds between two lines.
    """
    stderr = Console(stderr=True)
    if stderr.is_terminal:
        with _bar(stderr, over) as report:
            yield report
        return
    lines, ended = _Lines(clock, every), threading.Event()
    ticking = threading.Thread(target=lines.tick, args=(ended,), daemon=True)
    ticking.start()
    try:
        yield lines
    finally:
        ended.set()
        ticking.join()


class _Lines:
    """Plain lines that say how far work has come, from the thread that does it and from one that waits beside it."""

    def __init__(self, clock: Callable[[], float], every: float) -> None:
        self._clock, self._every = clock, every
        self._started = self._last = clock()
        self._state: tuple[int, int, str] | None = None
        self._lock = threading.Lock()

    def __call__(self, done: int, total: int, what: str) -> None:
        """Remember how far it is, and say so if it is time to."""
        self._state = done, total, what
        self.say()

    def say(self) -> None:
        """Print a line if the last one is long enough ago."""
        with self._lock:
            now = self._clock()
            if self._state is not None and now - self._last >= self._every:
                self._last = now
                done, total, what = self._state
                console.warn(f"{done} of {total} after {now - self._started:.0f} s: {what}")

    def tick(self, ended: threading.Event) -> None:
        """Print lines until the work has ended."""
        while not ended.wait(self._every):
            self.say()


@contextmanager
def _bar(stderr: Console, over: float) -> Iterator[Report]:
    """Return what moves a bar, which says how much is done, how long it took, what is left, and what goes on now."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn())
    described = TextColumn("{task.description}")
    with Progress(*columns, described, console=stderr, speed_estimate_period=over) as progress:
        task = progress.add_task("", total=None)

        def show(done: int, total: int, what: str) -> None:
            progress.update(task, completed=done, total=total, description=console.plain(what))

        yield show
