"""A command in a process of its own, whose exit code is the command's also if code of a plugin ends that process.

Cells run in workers, but plugins are imported, and samples and pictures read, before there are cells. `os._exit(0)` in
that code would end a study with an exit code that says it is finished.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from tokensieve.cli import console


def supervised(command: Callable[[], object]) -> NoReturn:
    """Run a command in a child process, and exit with its exit code.

    Nothing may have been computed yet: a process whose threads work cannot be forked safely. An interrupt reaches the
    child once, whether a terminal sends it to all processes or somebody to this one alone, and the child decides.

    Args:
        command: what to run. It has come to its end if it returns, or raises SystemExit.

    Raises:
        SystemExit: with the command's code; with 1 if the child ended with 0 before the command did; with 128 and the
            number of the signal that ended the child.
    """
    answer, answering = os.pipe()
    lifeline, held = os.pipe()
    seen, seeing = os.pipe()
    for end in (seen, seeing):
        os.set_blocking(end, False)
    sys.stdout.flush()
    sys.stderr.flush()
    # Blocked before there is a child, so that none of them is lost: `_wait` takes them one by one.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED)
    child = os.fork()
    if child == 0:
        os.close(answer)
        os.close(held)
        os.close(seen)
        signal.set_wakeup_fd(seeing, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
        _run(command, answering)
    os.close(answering)
    os.close(lifeline)
    os.close(seeing)
    try:
        status = _wait(child, seen)
    finally:
        # What came too late is for nobody.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.close(seen)
    os.close(held)
    # What the child started may hold the pipe open.
    os.set_blocking(answer, False)
    raise SystemExit(_exit_code(answer, status))


_WAITED = (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends the wait for the child, or is passed on to it."""
_SEEN_SECONDS = 0.2
"""How long the child has to show that an interrupt reached it, too; a signal's handler in C takes microseconds."""


def _wait(child: int, seen: int) -> int:
    """Wait for the child, which gets the signals that this process gets, and return its exit code.

    Args:
        child: the child's id.
        seen: a pipe into which the child's interpreter writes the number of every signal that it gets.
    """
    while True:
        number = signal.sigwait(_WAITED)
        if number == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
        # A terminal, and whoever ends a group of processes, interrupts the child as well.
        elif number != signal.SIGINT or not _has_seen(seen):
            os.kill(child, number)
            if number == signal.SIGINT:
                _has_seen(seen)


def _has_seen(seen: int) -> bool:
    """Return whether the child got an interrupt, in this moment or since this was asked last."""
    ready, _, _ = select.select([seen], [], [], _SEEN_SECONDS)
    return bool(ready) and signal.SIGINT in os.read(seen, _PIPE)


_PIPE = 65_536
"""More than the signals of a command."""


def _run(command: Callable[[], object], answering: int) -> NoReturn:
    code = 0
    try:
        command()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    # What plugins do at exit changes nothing any more.
    os.write(answering, bytes([code & 0xFF]))
    raise SystemExit(code)


def _end_with_parent(lifeline: int) -> None:
    os.read(lifeline, 1)
    os._exit(1)


def _exit_code(answer: int, status: int) -> int:
    try:
        said = os.read(answer, 1)
    except BlockingIOError:
        said = b""
    if said:
        return said[0]
    if status < 0:
        console.warn(f"the command was ended by signal {-status}")
        return 128 - status
    if status == 0:
        console.warn(
            "the command was ended before it was done: code of a plugin, a model or a task ended its process with exit "
            "code 0, as os._exit does"
        )
    return status or 1
