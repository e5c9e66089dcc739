"""Finished cells of a study as runs of MLflow."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from statistics import fmean
from typing import Any

from tokensieve.bridges import require
from tokensieve.errors import PluginError, short_message
from tokensieve.plugins.hookspecs import hookimpl
from tokensieve.recipes.yaml_lines import write
from tokensieve.study.rows import Cell, Row
from tokensieve.study.running.attempt import cell_name

KEY = "tokensieve.cell"
"""The tag with the key of a run's cell, by which a cell is known to be there."""
_LONGEST = 5000
"""The most characters of a tag that all of MLflow's stores take."""


class MlflowTracker:
    """A plugin that writes every finished cell of a study as a run of MLflow, once.

    The study is the experiment. What a cell is, such as its model, method and budget, are the run's parameters; means
    over its samples are the metrics; recipe, versions and notes are tags.

    Args:
        uri: where MLflow writes: its address, a folder or a database, as for `MLFLOW_TRACKING_URI`.

    Raises:
        PluginError: if MLflow is not installed, or in a version that does not work.
    """

    def __init__(self, uri: str) -> None:
        require("mlflow")
        self._uri = uri
        self._experiments: dict[str, str] = {}
        self._known: dict[str, set[str]] = {}

    @cached_property
    def _client(self) -> Any:
        # What it says while it makes its tables.
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports] - it has its own environment

        return MlflowClient(tracking_uri=self._uri)

    def open(self, study: str) -> None:
        """Find or make the experiment of a study.

        Raises:
            PluginError: if that is not possible there.
        """
        if study in self._experiments:
            return
        try:
            found = self._client.get_experiment_by_name(study)
            experiment = self._client.create_experiment(study) if found is None else found.experiment_id
            self._known[study] = set(self._keys(experiment))
        # Each of its stores has errors of its own.
        except Exception as error:
            raise PluginError(
                f"MLflow cannot write the experiment '{study}' at {self._uri}: {short_message(error)}; say another "
                "place in MLFLOW_TRACKING_URI, or leave out --log"
            ) from None
        self._experiments[study] = experiment

    @hookimpl
    def cell_finished(self, study: str, cell: Cell, rows: Sequence[Row]) -> None:
        """Write a cell as a run, unless it is there."""
        self.open(study)
        if cell.key in self._known[study]:
            return
        from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]

        run = self._client.create_run(self._experiments[study], run_name=cell_name(cell), tags=tags_of(cell))
        now = time.time_ns() // 1_000_000
        with self._ended(run.info.run_id):
            self._client.log_batch(
                run.info.run_id,
                params=[Param(name, value) for name, value in params_of(cell).items()],
                metrics=[Metric(_name(name), value, now, 0) for name, value in means_of(rows).items()],
            )
            # Last: a run without it is written again.
            self._client.set_tag(run.info.run_id, KEY, cell.key)
        self._known[study].add(cell.key)

    @contextlib.contextmanager
    def _ended(self, run: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._client.set_terminated(run, "FAILED")
            raise
        self._client.set_terminated(run)

    def _keys(self, experiment: str) -> Iterator[str]:
        page = None
        while True:
            page = self._client.search_runs([experiment], max_results=1000, page_token=getattr(page, "token", None))
            yield from (run.data.tags[KEY] for run in page if KEY in run.data.tags)
            if not page.token:
                return


def params_of(cell: Cell) -> dict[str, str]:
    """Return what a cell is: the parameters of its run."""
    said = {
        "model": cell.model,
        "adapter": cell.adapter,
        "task": cell.task,
        "method": cell.method,
        "role": cell.role,
        "of": cell.of,
        "keep": cell.keep,
        "seed": cell.seed,
        "recipe_hash": cell.recipe_hash,
    }
    return {name: str(value) for name, value in said.items() if value is not None}


def tags_of(cell: Cell) -> dict[str, str]:
    """Return what else is known of a cell: the tags of its run."""
    tags = {f"tokensieve.{name}": version for name, version in cell.versions.items()}
    tags["tokensieve.model_hash"], tags["tokensieve.card_hash"] = cell.model_hash, cell.card_hash
    if cell.recipe is not None:
        tags["tokensieve.recipe"] = write(cell.recipe)
    if cell.notes:
        tags["mlflow.note.content"] = "\n\n".join(cell.notes)
    return {name: value if len(value) <= _LONGEST else value[: _LONGEST - 1] + "…" for name, value in tags.items()}


def means_of(rows: Sequence[Row]) -> dict[str, float]:
    """Return the means over the samples of a cell, each over those of which it is known.

    `grades.NAME` are the task's grades, `tokens_per_layer` visual tokens, FLOPs those of the language model's prefill.
    """
    columns: Mapping[str, list[Any]] = {
        "correct": [row.correct for row in rows],
        **{f"grades.{name}": [row.grades.get(name) for row in rows] for name in rows[0].grades},
        "text_tokens": [row.text for row in rows],
        "visual_tokens": [row.visual for row in rows],
        "tokens_per_layer": [fmean(row.per_layer) for row in rows],
        "recall": [row.recall for row in rows],
        "flops": [row.flops for row in rows],
        "flops_unpruned": [row.flops_unpruned for row in rows],
        "tower_flops": [row.tower_flops for row in rows],
        "ms": [row.ms for row in rows],
        "selection_ms": [row.selection_ms for row in rows],
    }
    known = {name: [value for value in values if value is not None] for name, values in columns.items()}
    return {"samples": float(len(rows))} | {name: fmean(values) for name, values in known.items() if values}


def _name(name: str) -> str:
    """Return a name of a metric with the characters alone that MLflow allows."""
    return re.sub(r"[^\w\-./ ]", "_", name)
