"""The command `report`: a study's report as a page, with tables and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from tokensieve.cli import console
from tokensieve.cli.options import VIEWER_SAMPLES, output_path
from tokensieve.plugins.registry import default_registry


def report(
    run_folder: Annotated[str, typer.Argument(metavar="RUN", help="The folder of a study, as compare --out wrote it.")],
    out: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads the annotation
        typer.Option(
            "--out", metavar="DIR", parser=output_path, help="Where the report goes; RUN/report if not given."
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", min=1, help="Questions that the page's viewer shows.")
    ] = VIEWER_SAMPLES,
    plugins: Annotated[
        bool,
        typer.Option("--plugins", help="Import the plugins that the study names, which runs their code from here."),
    ] = False,
) -> None:
    """Write a study's report: one page that works offline, with tables and figures as files."""
    from tokensieve.cli.studies import report_study

    console.echo(str(report_study(run_folder, out, samples, default_registry(), plugins).page))
