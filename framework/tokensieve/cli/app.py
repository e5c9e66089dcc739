"""The application: all commands, and how errors become exit codes.

No command imports a model library before it runs, so that `--help`, `plugins`, `schema` and `check` answer at once.
"""

from __future__ import annotations

import functools
import sys
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tokensieve.cli import console
from tokensieve.cli.adapters import adapters
from tokensieve.cli.bench import bench
from tokensieve.cli.check import check
from tokensieve.cli.compare import compare
from tokensieve.cli.cost import cost
from tokensieve.cli.demo import demo
from tokensieve.cli.new import new
from tokensieve.cli.plugins import plugins
from tokensieve.cli.report import report
from tokensieve.cli.run import run
from tokensieve.cli.schema import schema
from tokensieve.cli.show import show
from tokensieve.cli.supervision import supervised
from tokensieve.errors import TokensieveError


class _Commands(TyperGroup):
    """Turns every error into one paragraph and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        debug = bool(ctx.params.get("debug"))
        try:
            return super().invoke(ctx)
        except TokensieveError as error:
            console.print_error(error, debug, expected=True)
        except typer.Abort:
            raise
        # Code of a plugin may end the process, with any exit code; the command did not do what it was asked for.
        except (SystemExit, GeneratorExit) as error:
            # As rich does where the reader closed the pipe.
            if isinstance(error.__context__, BrokenPipeError):
                raise
            console.warn("code of a plugin, a model or a task ended the command:")
            console.print_error(error, debug, expected=False)
        except Exception as error:
            # Errors in the command line itself bring their exit code, as typer.Exit does; a reader that closed the
            # pipe (`| head`) has all it wants, and typer ends quietly.
            if hasattr(error, "exit_code") or (isinstance(error, BrokenPipeError) and console.reader_is_gone()):
                raise
            console.print_error(error, debug, expected=False)
        raise typer.Exit(1)


app = typer.Typer(
    name="tokensieve",
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Drop or merge the visual tokens of multimodal models, and know what it costs in quality.",
    epilog="Exit codes: 0 fine, or notes only; 1 warnings, errors, or a refused recipe, model or file; "
    "2 a wrong command line; 130 interrupted.",
)


def _print_version(asked: bool) -> None:
    if asked:
        console.echo(metadata.version("tokensieve"))
        raise typer.Exit


@app.callback()
def common_options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Take the options that stand before a command."""


_STUDIES = {"compare", "demo"}
"""The commands that run studies; see `supervised`."""

# Help lists them in this order.
for _command in (plugins, new, adapters, check, cost, bench, run, show, compare, report, schema, demo):
    app.command()(_command)


def main() -> None:
    """Run the command line, and exit with its code."""
    command = functools.partial(app, prog_name="tokensieve")
    # Options may stand before the command.
    if _STUDIES.intersection(sys.argv[1:3]):
        supervised(command)
    command()
