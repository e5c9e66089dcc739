"""Tables that several commands print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from tokensieve.cli.console import cell

if TYPE_CHECKING:
    from tokensieve.plugins.registry import Registry


def titled_table(title: str, *columns: str, no_wrap: int = 1) -> Table:
    """Return an empty table whose first `no_wrap` columns are never wrapped."""
    table = Table(title=title, title_justify="left", title_style="bold", expand=False)
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number < no_wrap, overflow="fold")
    return table


def adapters_table(registry: Registry) -> Table:
    """Return a table of the adapters, with the model family of each."""
    from tokensieve.plugins.parameters import sentence

    table = titled_table(f"Adapters ({len(registry.adapters)})", "name", "what it is for")
    for name, adapter in sorted(registry.adapters.items()):
        text = sentence(adapter)
        if adapter.refusal_reason is not None:
            text += f"\nRefused: {adapter.refusal_reason}."
        table.add_row(cell(name), cell(text))
    return table
