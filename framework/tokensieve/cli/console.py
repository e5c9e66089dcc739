"""Where the command line prints: results go to stdout, problems and progress to stderr."""

from __future__ import annotations

import re
import sys
import traceback
import unicodedata

import typer
from rich.console import Console, RenderableType
from rich.status import Status
from rich.text import Text

LONGEST = 2_000
_TAIL = 500


def show(renderable: RenderableType) -> None:
    """Print a table or the like to stdout."""
    Console().print(renderable)


def working(what: str) -> Status:
    """Show on stderr that something takes a while."""
    return Console(stderr=True).status(f"{what} ...")


def say(text: str = "") -> None:
    """Print text to stdout as it is: nothing is wrapped, and brackets are brackets."""
    typer.echo(plain(text))


def warn(text: str) -> None:
    """Print text to stderr as it is."""
    typer.echo(plain(text), err=True)


def plain(text: str) -> str:
    """Make what others wrote safe to print: control characters become a replacement character."""
    return "".join(
        sign if sign in "\n\t" or unicodedata.category(sign) not in ("Cc", "Cs") else "\ufffd" for sign in text
    )


def cell(text: str, style: str = "") -> Text:
    """Return a cell of a table that holds text as it is."""
    return Text(plain(text), style=style)


def paragraph(error: Exception) -> str:
    """Return an error as one paragraph of less than 2,000 characters, its end unbroken."""
    message = f"{type(error).__name__}: {error}".rstrip(": ")
    text = re.sub(r"\s*[\r\n]+\s*", " ", message)
    if len(text) >= LONGEST:
        # The end names the place.
        text = f"{text[: LONGEST - _TAIL - 10]} [...] {text[-_TAIL:]}"
    return text


def refuse(error: Exception, debug: bool, expected: bool) -> None:
    """Print an error to stderr, with its traceback if that was asked for."""
    if debug:
        traceback.print_exception(error, file=sys.stderr)
        return
    hint = "" if expected else "  (unexpected: `tokensieve --debug ...` shows where it happened)"
    warn(paragraph(error) + hint)
