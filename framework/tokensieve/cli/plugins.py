"""The command `plugins`: what is installed, which plugin brings it, and all that is known of a name."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Optional

import typer

from tokensieve.cli import console
from tokensieve.cli.options import PluginFiles, open_registry


def plugins(
    name: Annotated[
        Optional[str],  # noqa: UP045 - typer reads the annotation
        typer.Argument(metavar="[NAME]", help="A strategy, composer, recipe, adapter, task or kind of evidence."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plugin: PluginFiles = None,
) -> None:
    """List plugins, and all that they bring; with a name, say all that is known of it."""
    from tokensieve.cli.plugin_tables import listed, plugin_errors, plugin_tables, print_card
    from tokensieve.recipes.cards import cards

    registry = open_registry(plugin)
    if name is not None:
        known = cards(name, registry)
        if as_json:
            console.echo(json.dumps([asdict(card) for card in known], indent=2, ensure_ascii=False))
        else:
            for card in known:
                print_card(card)
        return
    if as_json:
        console.echo(json.dumps(listed(registry), indent=2, ensure_ascii=False))
        raise typer.Exit(1 if any(plugin_errors(registry)) else 0)
    for table in plugin_tables(registry):
        console.show(table)
        console.echo()
    errors = list(plugin_errors(registry))
    for error in errors:
        console.echo(f"error: {error}")
    raise typer.Exit(1 if errors else 0)
