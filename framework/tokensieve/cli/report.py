"""The command `report`: a study's report as a page, with tables and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from tokensieve.cli import console
from tokensieve.cli.options import VIEWER_SAMPLES, output_path


def report(
    run_folders: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="The folder of a study, as compare --out wrote it; several make one report."
        ),
    ],
    out: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads the annotation
        typer.Option(
            "--out",
            metavar="DIR",
            parser=output_path,
            help="Where the report goes; RUN/report if not given. Several runs need it.",
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", min=1, help="Questions that the page's viewer shows.")
    ] = VIEWER_SAMPLES,
    published: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads the annotation
        typer.Option("--published", metavar="FILE", help="A YAML file of published numbers that stand beside these."),
    ] = None,
    intervals: Annotated[
        bool, typer.Option("--intervals/--no-intervals", help="Whether LaTeX tables print intervals.")
    ] = True,
    columns: Annotated[
        Optional[str],  # noqa: UP045 - typer reads the annotation
        typer.Option(
            "--columns",
            metavar="A,B,...",
            help="The columns of the main tables in LaTeX, in this order; all by default.",
        ),
    ] = None,
    plugins: Annotated[
        bool,
        typer.Option("--plugins", help="Import the plugins that the study names, which runs their code from here."),
    ] = False,
) -> None:
    """Write a study's report: one page that works offline, with tables and figures as files."""
    from tokensieve.cli.studies import report_study
    from tokensieve.plugins.registry import default_registry
    from tokensieve.study.report import PaperStyle

    chosen = tuple(name.strip() for name in columns.split(",") if name.strip()) if columns else ()
    paper = PaperStyle(published, intervals, chosen)
    written = report_study(run_folders, out, samples, default_registry(), plugins, paper)
    console.echo(written.headline)
    console.echo(str(written.page))
