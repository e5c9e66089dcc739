"""The local engine: runs cells in worker processes of this machine, or in this process."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tokensieve.errors import RefusedError, listing
from tokensieve.plugins.registry import Registry, default_registry
from tokensieve.study.planning.jobs import Job
from tokensieve.study.running.attempt import OnResult, Result, Summary, run_cell, wait_for_others
from tokensieve.study.running.runner import Runner
from tokensieve.study.running.worker_pool import WorkerPool
from tokensieve.study.spec.plugins import register_plugins
from tokensieve.study.spec.study import CELL_TIMEOUT
from tokensieve.study.store import Store

_BROUGHT = ("strategies", "composers", "recipes", "geometries", "adapters", "tasks", "checkpoints")
CALLED_HERE = {"cell_finished"}
"""Hooks that are called in this process, so workers need not know a plugin that has these alone."""


def run_local(
    jobs: Sequence[Job],
    store: Store,
    registry: Registry,
    on_result: OnResult,
    workers: int = 1,
    *,
    timeout: float = CELL_TIMEOUT,
    in_process: bool = False,
) -> Summary:
    """Run cells on this machine.

    Cells run in worker processes, also with one worker, because code of plugins can end or hang a process. A worker
    makes a registry of its own: from what is installed, and the plugins that the study names.

    Args:
        jobs: the jobs, model by model.
        store: where finished cells are written.
        registry: the registry of this process.
        on_result: called with every result, in this process.
        workers: the number of processes.
        timeout: the seconds that a cell may take, with loading its model; then its process is killed, and it fails.
        in_process: whether cells run in this process, one after the other and without time-outs, as for debugging.

    Raises:
        RefusedError: if `registry` has what workers cannot know, or several workers are to run in this process.
    """
    if in_process and workers > 1:
        raise RefusedError(f"cells in this process run one after the other, so {workers} workers cannot share them")
    if jobs and not in_process:
        _check_registry(registry, jobs[0].plugins)
    since = time.time()
    summary = Summary()

    def count(result: Result) -> None:
        summary.add(result)
        on_result(result)

    left = list(jobs)
    while left:
        elsewhere: list[Job] = []

        def collect(job: Job, result: Result, elsewhere: list[Job] = elsewhere) -> None:
            if result.status == "elsewhere":
                elsewhere.append(job)
            else:
                count(result)

        if in_process:
            runner = Runner(registry)
            for job in left:
                collect(job, run_cell(job, store, runner, since))
        else:
            WorkerPool(left, store, since, workers, timeout, collect).run()
        left = wait_for_others(elsewhere, store, since, count)
    return summary


def _check_registry(registry: Registry, plugins: Sequence[str]) -> None:
    """Refuse a registry with something that is not in the registries of workers."""
    other = default_registry()
    register_plugins(plugins, other)
    only_here = [
        name
        for kind in _BROUGHT
        for name, value in getattr(registry, kind).items()
        if getattr(other, kind).get(name) != value
    ]
    strangers = {plugin.name for plugin in registry.plugins} - {plugin.name for plugin in other.plugins}
    only_here += [name for name in strangers if not (hooks := registry.implements(name)) or hooks - CALLED_HERE]
    if only_here:
        raise RefusedError(
            f"only this process knows {listing(only_here)}, and cells run in worker processes. Name the module that "
            "brings it under `plugins:` of the study, or run with in_process=True"
        )
