"""The command `new`: a plugin of one's own, complete and green, to begin from."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tokensieve.cli import console
from tokensieve.cli.files import make_folder
from tokensieve.cli.options import output_path


class Kind(StrEnum):
    """What a plugin can bring."""

    strategy = "strategy"
    composer = "composer"
    adapter = "adapter"
    task = "task"
    recipe = "recipe"


def new(
    kind: Annotated[Kind, typer.Argument(metavar="KIND", help="strategy, composer, adapter, task or recipe.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="What formulas, studies and commands shall call it.")],
    into: Annotated[
        Path, typer.Option("--into", metavar="DIR", parser=output_path, help="Where the plugin's folder goes.")
    ] = Path(),
) -> None:
    """Write a plugin that installs and passes its tests at once: code, recipe, tests, README and workflow."""
    from tokensieve.cli.scaffold import Plan
    from tokensieve.plugins.registry import default_registry

    plan = Plan.of(kind.value, name, into, default_registry())
    make_folder(into, "--into")
    for file in plan.write():
        console.echo(str(file))
    console.echo()
    console.echo(f"Next: cd {plan.folder}; pip install -e '.[test]'; pytest; tokensieve plugins")
