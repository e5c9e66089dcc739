"""A command in a process of its own, whose exit code is the command's also if code of a plugin ends that process.

Cells run in workers, but plugins are imported, and samples and pictures read, before there are cells. `os._exit(0)` in
that code would end a study with an exit code that says it is finished.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from tokensieve.cli import console


def supervised(command: Callable[[], object]) -> NoReturn:
    """Run a command in a child process, and exit with its exit code.

    Nothing may have been computed yet: a process whose threads work cannot be forked safely. Ctrl-C reaches both
    processes, and the child decides.

    Args:
        command: what to run. It has come to its end if it returns, or raises SystemExit.

    Raises:
        SystemExit: with the command's code; with 1 if the child ended with 0 before the command did; with 128 and the
            number of the signal that ended the child.
    """
    answer, answering = os.pipe()
    lifeline, held = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(answer)
        os.close(held)
        threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
        _run(command, answering)
    os.close(answering)
    os.close(lifeline)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: os.kill(child, received))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    # What the child started may hold the pipe open.
    os.set_blocking(answer, False)
    raise SystemExit(_exit_code(answer, status))


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
