"""The arguments and options that several commands share, and how `--keep` is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from tokensieve.cli import console
from tokensieve.errors import BudgetError

if TYPE_CHECKING:
    from tokensieve.algebra.budget import Keep
    from tokensieve.plugins.registry import Registry

VIEWER_SAMPLES = 24
"""How many questions the viewer of a report shows by default."""


def output_path(text: str | Path) -> Path:
    """Return the path of an `--out`, which is not empty: that would silently be the current folder."""
    if not str(text).strip():
        raise typer.BadParameter("an empty name is no place for results; name a folder or file, or . for this folder")
    return Path(text)


def output_address(text: str) -> str:
    """Return the folder or address of an `--out`, which is not empty."""
    output_path(text)
    return text


RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name, a path to YAML, or a formula.")]
RecipeNames = Annotated[
    list[str], typer.Argument(metavar="RECIPE...", help="Shipped recipes' names, paths to YAML, or formulas.")
]
_MODEL = typer.Option("--model", metavar="DIR", help="A checkpoint's folder, or the name of one that is shipped.")
_SHAPED = typer.Option("--model", metavar="NAME", help="A checkpoint's folder, a shipped one's name, or a geometry.")
Model = Annotated[str, _MODEL]
OptionalModel = Annotated[Optional[str], _MODEL]  # noqa: UP045 - typer reads the annotation
ShapedModel = Annotated[str, _SHAPED]
OptionalShapedModel = Annotated[Optional[str], _SHAPED]  # noqa: UP045 - typer reads the annotation
Budget = Annotated[
    Optional[str],  # noqa: UP045 - typer reads the annotation
    typer.Option(
        "--keep", metavar="K", help="Another budget: 64, 1/9, 0.25, 25%, or one for each stage, as in 300,200."
    ),
]
QueryEncoder = Annotated[
    Optional[Path],  # noqa: UP045 - typer reads the annotation
    typer.Option(
        "--query-encoder", metavar="DIR", help="The two-tower model of the vision tower's space, to judge relevance."
    ),
]
Settings = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads the annotation
    typer.Option("--set", metavar="PATH=VALUE", help="Change the study, such as keep=64,128 or limit=100."),
]

RecipeSettings = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads the annotation
    typer.Option(
        "--set", metavar="PATH=VALUE", help="Change the recipe, such as gsp.quantile=0.75 or stages.0.rest=merge."
    ),
]


def _check_device(name: str | None) -> str | None:
    """Refuse a device that is not on this machine, before anything else is done."""
    if name is not None:
        from tokensieve.checkpoints.devices import named_device

        named_device(name)
    return name


Device = Annotated[
    Optional[str],  # noqa: UP045 - typer reads the annotation
    typer.Option(
        "--device",
        metavar="NAME",
        callback=_check_device,
        help="Where the model runs, such as cpu or cuda:0. An accelerator if there is one.",
    ),
]

PluginFiles = Annotated[
    Optional[list[Path]],  # noqa: UP045 - typer reads the annotation
    typer.Option("--plugin", metavar="FILE.py", help="A plugin that is not installed; give it again for more of them."),
]


def open_registry(plugins: Sequence[Path] | None) -> Registry:
    """Return a registry of everything installed, and of the plugins of `--plugin`.

    Raises:
        PluginError: if a file is no plugin.
    """
    from tokensieve.plugins.files import register_files
    from tokensieve.plugins.registry import default_registry

    registry = default_registry()
    register_files(plugins or (), registry)
    return registry


def parse_budgets(keep: str | None) -> list[Keep] | None:
    """Return the budgets of `--keep`, or none if the option is not given.

    Raises:
        typer.Exit: with code 2, if one of them is no budget.
    """
    from tokensieve.algebra.budget import Keep

    if keep is None:
        return None
    try:
        return [Keep.of(part) for part in keep.split(",")]
    except BudgetError as error:
        console.warn(console.paragraph(error))
        raise typer.Exit(2) from None
