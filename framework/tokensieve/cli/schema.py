"""The command `schema`: the JSON Schema of recipe files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

from tokensieve.cli import console
from tokensieve.cli.files import require_writable
from tokensieve.cli.options import PluginFiles, open_registry, output_path


def schema(
    out: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads the annotation
        typer.Option("--out", metavar="FILE", parser=output_path, help="Write it to a file."),
    ] = None,
    plugin: PluginFiles = None,
) -> None:
    """Print the JSON Schema of recipe files, for editors."""
    require_writable(out)
    from tokensieve.recipes.schema import schema as recipe_schema

    text = json.dumps(recipe_schema(open_registry(plugin)), indent=2)
    if out is None:
        console.echo(text)
    else:
        out.write_text(text + "\n", encoding="utf-8")
        console.echo(str(out))
