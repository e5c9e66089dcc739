"""A study at the command line: its plan, its progress, and what became of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from tokensieve.cli import console
from tokensieve.cli.console import cell
from tokensieve.plugins.registry import Registry
from tokensieve.study.planning.jobs import Plan, SkippedControl
from tokensieve.study.planning.plan import plan_study
from tokensieve.study.rows import Cell
from tokensieve.study.running.attempt import Result, Summary
from tokensieve.study.running.estimate import Estimate, estimate_costs
from tokensieve.study.running.local_engine import run_local
from tokensieve.study.spec.study import Study
from tokensieve.study.store import Store


def show_plan(planned: Plan, store: Store, registry: Registry, probe: bool) -> None:
    """Print the cells of a plan, what they cost, and what does not apply."""
    finished = store.finished()
    table = Table("model", "task", "method", "keep", "cells", "done")
    for column in table.columns[4:]:
        column.justify = "right"
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for job in planned.jobs:
        groups.setdefault((job.cell.model, job.cell.task, job.cell.method), []).append(job.cell)
    for names, cells in groups.items():
        keeps = ", ".join(dict.fromkeys(one.keep for one in cells if one.keep))
        done = sum(one.key in finished for one in cells)
        table.add_row(*map(cell, names), cell(keeps), str(len(cells)), str(done))
    console.show(table)
    console.say()
    with console.working("counting" + (", and timing a batch of every model" if probe else "")):
        found = estimate_costs(planned.jobs, store, registry, probe)
    console.show(costs(found))
    for basis in dict.fromkeys(one.basis for one in found):
        console.say(f"counted by {basis}")
    remarks(planned)


def costs(found: Sequence[Estimate]) -> Table:
    """Return what every model and task comes to."""
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
    """Return a time to be read: `unknown`, `40 s`, `12 min`, `3.5 h`."""
    if seconds is None:
        return "unknown"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def remarks(planned: Plan) -> None:
    """Print what is worth knowing of a plan."""
    for model in planned.not_downloaded:
        console.say(f"note: the checkpoint of '{model}' is not here; its cells are checked when it is fetched")
    for note in planned.notes:
        console.say(f"note: {note}")
    for reason, role, of in dict.fromkeys((one.reason, one.role, one.of) for one in planned.skipped):
        ours = [one for one in planned.skipped if (one.reason, one.role, one.of) == (reason, role, of)]
        at = ", ".join(dict.fromkeys(one.keep for one in ours if one.keep))
        models = ", ".join(dict.fromkeys(one.model for one in ours))
        console.say(f"n/a: {models}: {role}{f' of {of}' if of else ''} at keep {at}: {reason}")


def run(study: Study, store: Store, registry: Registry, engine: str, workers: int, gpus: float) -> bool:
    """Check a study, run it, and say what became of it.

    Returns:
        Whether every cell is there.
    """
    with console.working("checking the study"):
        planned = plan_study(study, registry, download=True)
    remarks(planned)
    try:
        summary = compare(study, planned, store, registry, engine, workers, gpus)
    except KeyboardInterrupt:
        console.warn(f"stopped; what is finished is in {store.path}. The same command goes on from there")
        raise typer.Exit(1) from None
    console.say(outcome(summary, store, planned.skipped))
    return not summary.failed


def compare(
    study: Study, planned: Plan, store: Store, registry: Registry, engine: str, workers: int, gpus: float
) -> Summary:
    """Run a plan, with progress on stderr."""
    keys = [job.cell.key for job in planned.jobs]
    store.begin(study.dump(), {"keys": keys, "skipped": [asdict(one) for one in planned.skipped]})
    finished = store.finished()
    left = [job for job in planned.jobs if job.cell.key not in finished]
    with _progress() as progress:
        task = progress.add_task("", total=len(left))

        def told(result: Result) -> None:
            one = result.cell
            said = " ".join(filter(None, (one.model, one.task, one.method, one.keep and f"keep {one.keep}")))
            progress.update(task, advance=1, description=console.plain(said))
            if result.status == "failed":
                progress.console.print(console.cell(f"failed: {said}: {result.reason}"))

        if engine == "ray":
            from tokensieve.study.running.ray_engine import run_ray

            summary = run_ray(left, store, told, gpus=gpus)
        else:
            summary = run_local(left, store, registry, told, workers)
    summary.cached += len(keys) - len(left)
    return summary


def outcome(summary: Summary, store: Store, skipped: Sequence[SkippedControl]) -> str:
    """Say what became of a study, in a line."""
    parts = [f"{summary.done} cells run", f"{summary.cached} were there"]
    if skipped:
        parts.append(f"{len(skipped)} n/a")
    if summary.failed:
        parts.append(f"{len(summary.failed)} failed (reasons in {store.path}/failures; run it again to try them again)")
    return f"{store.path}: {', '.join(parts)}"


@contextmanager
def _progress() -> Iterator[Progress]:
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=600) as progress:
        yield progress
