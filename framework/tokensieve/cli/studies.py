"""What `compare`, `report` and `demo` share: a study is run with progress, and its report is written."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer

from tokensieve.checkpoints.devices import named_device
from tokensieve.cli import console
from tokensieve.cli.files import make_folder
from tokensieve.cli.progress import reported
from tokensieve.errors import RefusedError, listing, text_of
from tokensieve.plugins.registry import Registry
from tokensieve.recipes import yaml_lines
from tokensieve.study.analysis.merged import MergedResults
from tokensieve.study.planning.jobs import Plan, SkippedControl
from tokensieve.study.planning.plan import plan_study
from tokensieve.study.report import STEPS, PaperStyle, WrittenReport, write_report
from tokensieve.study.running.attempt import Result, Summary, cell_name
from tokensieve.study.running.local_engine import run_local
from tokensieve.study.spec.plugins import register_plugins
from tokensieve.study.spec.study import Study
from tokensieve.study.store import Store

INTERRUPTED = 130
"""The exit code after Ctrl-C, as of shells: 128 and the number of the signal."""


@dataclass(frozen=True)
class Engine:
    """Where cells run.

    Attributes:
        name: `local` or `ray`.
        workers: the processes of the local engine.
        gpus: what a cell takes of the GPUs of a Ray cluster.
        in_process: whether the local engine runs cells in this process.
    """

    name: str = "local"
    workers: int = 1
    gpus: float = 0.0
    in_process: bool = False


def run_study(
    study: Study, store: Store, registry: Registry, engine: Engine, checked: Callable[[], None] | None = None
) -> bool:
    """Check a study, run it, and print how many cells ran.

    Args:
        study: the study.
        store: where results go.
        registry: where names are looked up.
        engine: where cells run.
        checked: called once the study is known to be right, before a cell runs.

    Returns:
        Whether every cell is finished.

    Raises:
        typer.Exit: with 130 after Ctrl-C.
    """
    if engine.name == "local":
        _check_devices(study)
    with console.working("checking the study"):
        plan = plan_study(study, registry, download=True)
    print_notes(plan)
    if checked is not None:
        checked()
    try:
        summary = _run_plan(study, plan, store, registry, engine)
    except KeyboardInterrupt:
        console.warn(f"stopped; what is finished is in {store.path}. The same command goes on from there")
        raise typer.Exit(INTERRUPTED) from None
    left = {job.cell.key for job in plan.jobs} - store.finished()
    console.echo(_summary_line(summary, store, plan.skipped, max(0, len(left) - len(summary.failed))))
    return not summary.failed and not left


def _check_devices(study: Study) -> None:
    """Raise `RefusedError` if this machine does not have the device of a model."""
    for index, model in enumerate(study.models):
        try:
            named_device(model.device)
        except RefusedError as error:
            raise RefusedError(f"model '{model.name}': {error}{study.location('models', index)}") from None


def print_notes(plan: Plan) -> None:
    """Print the notes of a plan: absent checkpoints, and cells that do not apply."""
    for model in plan.not_downloaded:
        console.echo(f"note: the checkpoint of '{model}' is not here; its cells are checked when it is fetched")
    for note in plan.notes:
        console.echo(f"note: {note}")
    for reason, role, of in dict.fromkeys((one.reason, one.role, one.of) for one in plan.skipped):
        same = [one for one in plan.skipped if (one.reason, one.role, one.of) == (reason, role, of)]
        at = ", ".join(dict.fromkeys(one.keep for one in same if one.keep))
        models = ", ".join(dict.fromkeys(one.model for one in same))
        console.echo(f"n/a: {models}: {role}{f' of {of}' if of else ''} at keep {at}: {reason}")


def _run_plan(study: Study, plan: Plan, store: Store, registry: Registry, engine: Engine) -> Summary:
    """Run the cells of a plan that are not finished, with progress on stderr."""
    keys = [job.cell.key for job in plan.jobs]
    cells = [job.planned for job in plan.jobs]
    store.begin(study.dump(), {"keys": keys, "cells": cells, "skipped": [asdict(one) for one in plan.skipped]})
    finished = store.finished()
    for key, problem in store.damaged().items():
        if key in keys:
            console.warn(f"its cell runs again: {problem}")
    left = [job for job in plan.jobs if job.cell.key not in finished]
    for key in keys:
        if key in finished:
            _tell_hooks(study, store, registry, key)
    done = itertools.count(1)
    with reported(over=600) as report:
        report(0, len(left), "starting")

        def on_result(result: Result) -> None:
            name = cell_name(result.cell)
            report(next(done), len(left), name)
            if result.status == "failed":
                reason = result.reason.removeprefix(f"{name}: ")
                console.warn(f"failed: {name}: {reason}")
            else:
                _tell_hooks(study, store, registry, result.cell.key)

        if engine.name == "ray":
            from tokensieve.study.running.ray_engine import run_ray

            summary = run_ray(left, store, on_result, gpus=engine.gpus, timeout=study.cell_timeout)
        else:
            summary = run_local(
                left,
                store,
                registry,
                on_result,
                engine.workers,
                timeout=study.cell_timeout,
                in_process=engine.in_process,
            )
    summary.cached += len(keys) - len(left)
    return summary


def _tell_hooks(study: Study, store: Store, registry: Registry, key: str) -> None:
    """Call the hook `cell_finished`. What it raises does not cost the study, whose results are stored."""
    if not registry.hook.cell_finished.get_hookimpls():
        return
    cell, rows = store.read(key)
    try:
        registry.hook.cell_finished(study=study.name, cell=cell, rows=rows)
    # Code of a plugin can raise anything.
    except Exception as error:
        console.warn(f"the hook cell_finished failed for {cell_name(cell)}, whose results are stored: {text_of(error)}")


def _summary_line(summary: Summary, store: Store, skipped: Sequence[SkippedControl], unrun: int) -> str:
    parts = [f"{summary.done} cells run", f"{summary.cached} were there"]
    if skipped:
        parts.append(f"{len(skipped)} n/a")
    if summary.failed:
        parts.append(f"{len(summary.failed)} failed (reasons in {store.path}/failures; run it again to try them again)")
    if unrun:
        parts.append(f"{unrun} planned cells have no result (run it again)")
    return f"{store.path}: {', '.join(parts)}"


def report_study(
    run_folders: Sequence[str],
    out: Path | None,
    samples: int,
    registry: Registry,
    plugins: bool = False,
    paper: PaperStyle | None = None,
) -> WrittenReport:
    """Write the report of a study, or of several that are merged.

    Args:
        run_folders: the folders of the studies, or addresses that fsspec knows.
        out: the folder of the report; if none is given, `report` in the folder of a single study.
        samples: how many questions the viewer shows.
        registry: where names are looked up.
        plugins: whether the plugins that the studies name are imported, which runs their code, and registered.
        paper: how tables are written for a paper.

    Raises:
        StudyError: if there is no study, no cell is finished, or a file of a study cannot be read.
        PluginError: if a plugin cannot be imported.
        RefusedError: if a study is on another machine, or there are several, and `out` is not given.
    """
    folders = list(dict.fromkeys(one.rstrip("/") or one for one in run_folders))
    if out is None and len(folders) > 1:
        raise RefusedError("several runs make one report; say where it goes with --out DIR")
    if out is None and "://" in folders[0]:
        raise RefusedError(f"{folders[0]} is not on this machine; say where the report goes with --out")
    stores = [Store(folder) for folder in folders]
    texts = [store.study() for store in stores]
    settings = [_settings_of(text, folder) for text, folder in zip(texts, folders, strict=True)]
    _register_study_plugins(settings, registry, plugins)
    folder = Path(folders[0]) / "report" if out is None else out
    make_folder(folder)
    title = " + ".join(
        dict.fromkeys(str(one.get("name", Path(at).name)) for one, at in zip(settings, folders, strict=True))
    )
    with reported() as report:
        step = itertools.count()
        written = write_report(
            stores[0] if len(stores) == 1 else MergedResults(stores),
            folder,
            registry,
            title=title,
            studies=texts,
            samples=samples,
            paper=paper,
            progress=lambda what: report(next(step), len(STEPS), what),
        )
    if written.completeness.note:
        console.warn(written.completeness.note)
    for problem in written.problems:
        console.warn(problem)
    return written


def _settings_of(text: str, folder: str) -> dict[str, Any]:
    """Return the keys of a study."""
    data = yaml_lines.read(text, f"{folder}/study.yaml").data
    return data if isinstance(data, dict) else {}


def _register_study_plugins(settings: Sequence[Mapping[str, Any]], registry: Registry, trusted: bool) -> None:
    """Import and register the plugins that studies name, if they are trusted, or say that they are not there."""
    names: list[str] = []
    for one in settings:
        named = one.get("plugins") or []
        names += [str(name) for name in (named if isinstance(named, list) else [named])]
    if trusted:
        register_plugins(list(dict.fromkeys(names)), registry)
    elif unknown := set(names) - {plugin.name for plugin in registry.plugins}:
        console.warn(
            f"the study names plugins that are not installed ({listing(unknown)}); reading a report runs no code of a "
            "folder, so what they add is not shown. If you trust them, add --plugins"
        )
