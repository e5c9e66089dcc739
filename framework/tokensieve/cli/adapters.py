"""The command `adapters`: model families, and the evidence that strategies get of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from tokensieve.cli import console
from tokensieve.cli.console import cell
from tokensieve.cli.options import PluginFiles, open_registry
from tokensieve.cli.tables import adapters_table, titled_table

if TYPE_CHECKING:
    from tokensieve.plugins.registry import Registry


def adapters(plugin: PluginFiles = None) -> None:
    """List model families, and the evidence that strategies get of each."""
    from tokensieve.checkpoints.loaded_model import quiet

    registry = open_registry(plugin)
    console.show(adapters_table(registry))
    with quiet():
        console.show(evidence_table(registry))


def evidence_table(registry: Registry) -> Table:
    """Return a table of the evidence that adapters offer to strategies."""
    table = titled_table("Evidence", "sites", "at the first", "deeper also", "adapters", no_wrap=3)
    for names, sites, first, deeper in offered_evidence(registry):
        table.add_row(cell(sites), cell("\n".join(first)), cell("\n".join(deeper)), cell(", ".join(names)))
    return table


def offered_evidence(registry: Registry) -> list[tuple[list[str], str, list[str], list[str]]]:
    """Return the evidence that adapters offer to strategies, one entry for all adapters that offer the same.

    Returns:
        Names of adapters, the kind of sites, the evidence at the first site, and what deeper sites add.
    """
    groups: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for name, cls in sorted(registry.adapters.items()):
        if cls.refusal_reason is not None:
            continue
        adapter = cls(cls.tiny())
        for part in ("pixel", "encoder", "decoder"):
            sites = [site for site in adapter.sites() if site.part == part]
            if sites:
                first, deepest = adapter.offers(sites[0]), adapter.offers(sites[-1])
                sites_named = "pixel.0" if part == "pixel" else f"{part}.K"
                key = (sites_named, tuple(sorted(first)), tuple(sorted(deepest - first)))
                groups.setdefault(key, []).append(name)
    found = [(names, sites, list(first), list(deeper)) for (sites, first, deeper), names in groups.items()]
    return sorted(found, key=lambda group: (("pixel.0", "encoder.K", "decoder.K").index(group[1]), -len(group[0])))
