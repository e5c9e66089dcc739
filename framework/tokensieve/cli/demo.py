"""The command `demo`: the study of the embedded models, and its report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokensieve.cli import console
from tokensieve.cli.files import make_folder
from tokensieve.cli.options import VIEWER_SAMPLES, Settings, output_path
from tokensieve.errors import RefusedError
from tokensieve.plugins.registry import default_registry

if TYPE_CHECKING:
    from tokensieve.study.report import WrittenReport

STUDY = "demo.yaml"
QUICK = (
    "models=world-llava",
    *(f"recipes.{name}.models=world-llava" for name in ("tome", "fastv", "gsp-fastv", "gsp at layer 2")),
    "keep=1/3,1/9,1/36",
    "seeds=0",
    "limit=108",
)
"""The settings with which `--quick` makes the study smaller."""


def demo(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", parser=output_path, help="Where everything goes.")
    ] = Path("demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer models, budgets and questions.")] = False,
    settings: Settings = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that share the work.")] = 2,
) -> None:
    """Compare methods on the models that are shipped, and write the report; it goes on where it stopped."""
    from tokensieve.cli.studies import Engine, report_study, run_study
    from tokensieve.study.spec.study import Study
    from tokensieve.study.store import Store

    registry = default_registry()
    loaded = Study.load(shipped_study(), registry, [*(QUICK if quick else ()), *(settings or [])])
    make_folder(out)
    complete = run_study(loaded, Store(str(out)), registry, Engine(workers=workers))
    print_answers(report_study(str(out), None, VIEWER_SAMPLES, registry))
    raise typer.Exit(0 if complete else 1)


def shipped_study() -> Path:
    """Return the file of the demo's study: beside this module if installed, in `studies/` in a checkout.

    Raises:
        RefusedError: if it is in neither.
    """
    here = Path(__file__).resolve().parent
    for folder in (here / "assets", *(above / "studies" for above in here.parents[2:3])):
        if (folder / STUDY).is_file():
            return folder / STUDY
    raise RefusedError(f"the study {STUDY} is not installed; name one of your own: tokensieve compare STUDY --out DIR")


def print_answers(written: WrittenReport) -> None:
    """Print the questions that a report answers, with the answers, and where the report is."""
    for question in written.answers:
        console.echo()
        console.echo(question.text)
        for answer in question.answers:
            console.echo(f"- {answer.title}: {answer.text}")
            for name, text in answer.points:
                console.echo(f"    {name}: {text}")
    console.echo()
    figures = [file for file in written.files if file.parent.name == "figures" and file.suffix == ".png"]
    console.echo(f"figures  {figures[0].parent}" if figures else "figures  none")
    console.echo(f"page     {written.page}")
