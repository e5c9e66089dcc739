"""The command `compare`: a study is planned, or run cell by cell."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.table import Table

from tokensieve.cli import console
from tokensieve.cli.console import cell
from tokensieve.cli.options import PluginFiles, Settings, open_registry, output_address

if TYPE_CHECKING:
    from tokensieve.plugins.registry import Registry
    from tokensieve.study.planning.jobs import Plan
    from tokensieve.study.rows import Cell
    from tokensieve.study.running.estimate import Estimate
    from tokensieve.study.running.mlflow_tracker import MlflowTracker
    from tokensieve.study.store import Store


class EngineName(StrEnum):
    """Where the cells of a study run."""

    local = "local"
    ray = "ray"


class TrackerName(StrEnum):
    """Where finished cells are written, too."""

    mlflow = "mlflow"


def compare(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="A study's YAML.")],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            metavar="DIR",
            parser=output_address,
            help="Where results go: a folder, or an address such as s3://b/x.",
        ),
    ],
    settings: Settings = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, and list cells and costs.")] = False,
    probe: Annotated[bool, typer.Option("--probe", help="With --dry-run: time a batch of every model.")] = False,
    engine: Annotated[EngineName, typer.Option("--engine", help="This machine, or a Ray cluster.")] = EngineName.local,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes of the local engine.")] = 1,
    gpus: Annotated[
        float, typer.Option("--gpus", min=0, help="With --engine ray: what a cell takes of the GPUs, such as 0.25.")
    ] = 0.0,
    cell_timeout: Annotated[
        Optional[float],  # noqa: UP045 - typer reads the annotation
        typer.Option(
            "--cell-timeout", metavar="SECONDS", help="What a cell may take before it is ended; inf for no limit."
        ),
    ] = None,
    in_process: Annotated[
        bool,
        typer.Option("--in-process", help="For debugging: run cells in this process, which they can end or hang."),
    ] = False,
    log: Annotated[
        Optional[TrackerName],  # noqa: UP045 - typer reads the annotation
        typer.Option("--log", help="Write every finished cell there, too; MLFLOW_TRACKING_URI says where."),
    ] = None,
    plugin: PluginFiles = None,
) -> None:
    """Run a study: models x recipes x budgets x tasks x seeds, with controls; it goes on where it stopped."""
    if in_process and (workers > 1 or engine is EngineName.ray or cell_timeout is not None):
        raise typer.BadParameter(
            "it runs one cell after the other and cannot end one, so --workers, --engine ray and --cell-timeout do not "
            "go with it",
            param_hint="--in-process",
        )
    if cell_timeout is not None and not cell_timeout > 0:
        raise typer.BadParameter("name more than 0 seconds, or inf", param_hint="--cell-timeout")
    from tokensieve.cli.studies import Engine, run_study
    from tokensieve.plugins.files import plugin_file
    from tokensieve.study.planning.plan import plan_study
    from tokensieve.study.spec.study import Study
    from tokensieve.study.store import Store

    registry = open_registry(plugin)
    loaded = Study.load(study, registry, settings or [])
    if plugin:
        # Cells run in other processes, which have to know it as well.
        files = (str(plugin_file(file)) for file in plugin)
        loaded = loaded.model_copy(update={"plugins": (*loaded.plugins, *files)})
    if cell_timeout is not None:
        loaded = loaded.model_copy(update={"cell_timeout": cell_timeout})
    store = Store(out)
    if dry_run:
        with console.working("checking the study"):
            plan = plan_study(loaded, registry)
        print_plan(plan, store, registry, probe)
        raise typer.Exit(0)

    def checked() -> None:
        if log is not None:
            registry.register(open_tracker(loaded.name, store), log.value)

    complete = run_study(loaded, store, registry, Engine(engine.value, workers, gpus, in_process), checked)
    raise typer.Exit(0 if complete else 1)


def open_tracker(study: str, store: Store) -> MlflowTracker:
    """Return what writes the cells of a study to MLflow: where its variable says, or into the folder of the study."""
    from tokensieve.cli.files import make_folder
    from tokensieve.errors import RefusedError
    from tokensieve.study.running.mlflow_tracker import MlflowTracker

    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri and "://" in store.path:
        raise RefusedError(
            f"{store.path} is not on this machine, so MLflow's database cannot be there; say in MLFLOW_TRACKING_URI "
            "where cells are logged"
        )
    if not uri:
        make_folder(folder := Path(store.path))
        uri = f"sqlite:///{folder.absolute() / 'mlflow.db'}"
    tracker = MlflowTracker(uri)
    tracker.open(study)
    return tracker


def print_plan(plan: Plan, store: Store, registry: Registry, probe: bool) -> None:
    """Print the cells of a plan, what they cost, and which do not apply."""
    from tokensieve.cli.studies import print_notes
    from tokensieve.study.running.estimate import estimate_costs

    finished = store.finished()
    table = Table("model", "task", "method", "keep", "cells", "done")
    for column in table.columns[4:]:
        column.justify = "right"
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for job in plan.jobs:
        groups.setdefault((job.cell.model, job.cell.task, job.cell.method), []).append(job.cell)
    for names, cells in groups.items():
        keeps = ", ".join(dict.fromkeys(one.keep for one in cells if one.keep))
        done = sum(one.key in finished for one in cells)
        table.add_row(*map(cell, names), cell(keeps), str(len(cells)), str(done))
    console.show(table)
    console.echo()
    with console.working("counting" + (", and timing a batch of every model" if probe else "")):
        found = estimate_costs(plan.jobs, store, registry, probe)
    console.show(estimates_table(found))
    for basis in dict.fromkeys(one.basis for one in found):
        console.echo(f"counted by {basis}")
    print_notes(plan)


def estimates_table(found: Sequence[Estimate]) -> Table:
    """Return a table of what the cells of every model and task cost."""
    table = Table(
        caption="left: cells that have not run. TFLOPs: counted, of the language model's prefills of what is left; a "
        "multiply-add is two. time: one cell after the other.",
        caption_justify="left",
    )
    for name in ("model", "task"):
        table.add_column(name, overflow="fold")
    for name in ("cells", "left", "samples", "visual", "TFLOPs", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found:
        flops = "unknown" if one.flops is None else f"{one.flops / 1e12:,.3f}"
        visual = "unknown" if one.visual is None else f"{one.visual}"
        numbers = (f"{one.cells}", f"{one.left}", f"{one.samples}", visual, flops, duration(one.seconds))
        table.add_row(cell(one.model), cell(one.task), *numbers)
    return table


def duration(seconds: float | None) -> str:
    """Return a time as text: `unknown`, `40 s`, `12 min`, `3.5 h`."""
    if seconds is None:
        return "unknown"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
