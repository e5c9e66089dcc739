"""How the command line prints: results to stdout, problems and progress to stderr."""

from __future__ import annotations

import contextlib
import re
import select
import sys
import traceback

import typer
from rich.console import Console, RenderableType
from rich.status import Status
from rich.text import Text

from tokensieve.errors import plain as plain
from tokensieve.errors import text_of

MAX_CHARACTERS = 2_000
_TAIL = 500


def show(renderable: RenderableType) -> None:
    """Print a table or the like to stdout."""
    Console().print(renderable)


def working(what: str) -> Status:
    """Return a spinner on stderr, for work that takes a while."""
    return Console(stderr=True).status(f"{what} ...")


def echo(text: str = "") -> None:
    """Print text to stdout as it is, without wrapping and markup."""
    typer.echo(plain(text))


def warn(text: str) -> None:
    """Print text to stderr as it is."""
    typer.echo(plain(text), err=True)


def reader_is_gone() -> bool:
    """Return whether nobody reads stdout or stderr any more."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        # Where the output is caught, as in tests, there is no file.
        with contextlib.suppress(OSError, ValueError):
            poll.register(stream.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def cell(text: str, style: str = "") -> Text:
    """Return a cell of a table that holds text as it is, without markup."""
    return Text(plain(text), style=style)


def paragraph(error: BaseException) -> str:
    """Return an error as one paragraph of less than 2,000 characters, with its end unbroken."""
    message = f"{type(error).__name__}: {text_of(error)}".rstrip(": ")
    text = re.sub(r"\s*[\r\n]+\s*", " ", message)
    if len(text) >= MAX_CHARACTERS:
        # The end names the file and line.
        text = f"{text[: MAX_CHARACTERS - _TAIL - 10]} [...] {text[-_TAIL:]}"
    return text


def print_error(error: BaseException, debug: bool, expected: bool) -> None:
    """Print an error to stderr, or its traceback if `debug`."""
    if debug:
        traceback.print_exception(error, file=sys.stderr)
        return
    hint = "" if expected else "  (unexpected: `tokensieve --debug ...` shows where it happened)"
    warn(paragraph(error) + hint)
