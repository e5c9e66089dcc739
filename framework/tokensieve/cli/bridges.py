"""The command `bridges`: where a recipe runs beside this library, and what is installed for it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from tokensieve.bridges import BridgeState, bridge_states
from tokensieve.cli import console
from tokensieve.cli.console import cell
from tokensieve.cli.tables import titled_table


def bridges(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List bridges to other libraries, and whether what they need is installed in versions that work."""
    states = bridge_states()
    if as_json:
        console.echo(json.dumps([asdict(state) | {"ready": state.ready} for state in states], indent=2))
        return
    table = titled_table("Bridges", "bridge", "what it does", "use", "needs", "state", no_wrap=1)
    for state in states:
        what, use = (state.bridge.what, state.bridge.use) if state.bridge is not None else ("", "")
        table.add_row(cell(state.name), cell(what), cell(use), cell(_needs(state)), cell(_said(state)))
    console.show(table)


def _needs(state: BridgeState) -> str:
    return "\n".join(f"{name} {versions}" for name, versions in state.needs.items()) or "nothing more"


def _said(state: BridgeState) -> str:
    if not state.ready:
        return "\n".join(state.problems)
    known = [f"{name} {version}" for name, version in state.installed.items()]
    return f"ready ({', '.join(known)})" if known else "ready"
