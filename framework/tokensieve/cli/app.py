"""The application: all commands, and how errors become exit codes.

A command is imported when it is called: most of them need torch, which takes a second or two by itself. `--help`,
`--version`, a misspelt command and completion need none, so they answer at once. No command imports a model library
before it runs.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from tokensieve.cli import console
from tokensieve.cli.supervision import supervised
from tokensieve.errors import TokensieveError

COMMANDS = (
    "plugins",
    "new",
    "adapters",
    "check",
    "explain",
    "recommend",
    "cost",
    "bench",
    "run",
    "show",
    "export",
    "serve-vllm",
    "compare",
    "search",
    "report",
    "schema",
    "demo",
    "bridges",
)
"""The commands, in the order in which help lists them. Each is a function in a module of its name in this package, with
underscores for dashes."""


def command_function(name: str) -> Callable[..., None]:
    """Return the function of a command."""
    python = name.replace("-", "_")
    function: Callable[..., None] = getattr(import_module(f"tokensieve.cli.{python}"), python)
    return function


def _first_line(name: str) -> str:
    """Return the first line of a command's docstring; its module is read and not imported."""
    python = name.replace("-", "_")
    tree = ast.parse(Path(__file__).with_name(f"{python}.py").read_text(encoding="utf-8"))
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == python)
    return (ast.get_docstring(function) or "").split("\n")[0]


class _Commands(TyperGroup):
    """Imports a command when it is called, and turns every error into one paragraph and an exit code."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # What help and completion list.
        self.commands = {name: TyperCommand(name, help=_first_line(name)) for name in COMMANDS}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, listed, rest = super().resolve_command(ctx, args)
        if listed is None:
            return name, listed, rest
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        single.command(listed.name)(command_function(str(listed.name)))
        return name, typer.main.get_command(single), rest

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
    add_completion=True,
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


_STUDIES = {"compare", "demo", "search"}
"""The commands that run studies; see `supervised`."""


def main() -> None:
    """Run the command line, and exit with its code."""
    command = functools.partial(app, prog_name="tokensieve")
    # Options may stand before the command.
    if _STUDIES.intersection(sys.argv[1:3]):
        supervised(command)
    command()
