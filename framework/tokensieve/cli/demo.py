"""The command `demo`: the study of the embedded models, and its report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokensieve.cli import console
from tokensieve.cli.files import make_folder
from tokensieve.cli.options import VIEWER_SAMPLES, Settings, output_path
from tokensieve.errors import RefusedError

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
FIRST = "first"
"""The folder, in that of the whole study, of the part that is reported first."""


def demo(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", parser=output_path, help="Where everything goes.")
    ] = Path("demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer models, budgets and questions.")] = False,
    settings: Settings = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that share the work.")] = 2,
) -> None:
    """Compare methods on the models that are shipped, and write the report; it goes on where it stopped.

    The whole study takes minutes, so a report of a small part of it, that of `--quick`, comes first.
    """
    from tokensieve.cli.studies import Engine, report_study, run_study
    from tokensieve.plugins.registry import default_registry
    from tokensieve.study.spec.study import Study
    from tokensieve.study.store import Store

    registry = default_registry()
    engine = Engine(workers=workers)
    loaded = Study.load(shipped_study(), registry, [*(QUICK if quick else ()), *(settings or [])])
    make_folder(out)
    # With settings it is the user's own study, of which the quick one may be no part.
    if not quick and not settings and not Store(str(out)).finished():
        first = out / FIRST
        run_study(Study.load(shipped_study(), registry, QUICK), Store(str(first)), registry, engine)
        page = report_study([str(first)], None, VIEWER_SAMPLES, registry).page
        console.echo(f"a first report, of a part of the study: {page}")
        console.echo("the whole study goes on")
    complete = run_study(loaded, Store(str(out)), registry, engine)
    print_answers(report_study([str(out)], None, VIEWER_SAMPLES, registry))
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
    """Print what won, the questions that a report answers, with the answers, and where the report is."""
    console.echo(written.headline)
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
