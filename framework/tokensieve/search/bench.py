"""Measuring candidates on one part of the pictures, as cells of a study."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tokensieve.errors import RefusedError, StudyError
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe
from tokensieve.recipes.review import find_errors, review
from tokensieve.search.trial import Candidate, Measured, Trial
from tokensieve.study.planning.controls import cut_shape, draws_at_random, with_seed
from tokensieve.study.planning.hashing import content_hash
from tokensieve.study.planning.jobs import Job
from tokensieve.study.planning.models import OpenedModel, open_model
from tokensieve.study.planning.plan import make_job
from tokensieve.study.planning.planner import PlannedCell
from tokensieve.study.planning.tasks import PreparedTask, prepare_task
from tokensieve.study.rows import Row
from tokensieve.study.running.attempt import Result
from tokensieve.study.running.local_engine import run_local
from tokensieve.study.spec.study import Study
from tokensieve.study.store import Store

Cost = Literal["tokens", "flops", "ms"]
COSTS: tuple[Cost, ...] = ("tokens", "flops", "ms")
"""What accuracy is searched against: visual tokens in the language model, counted FLOPs, measured milliseconds."""
Floats = NDArray[np.float64]
OnResult = Callable[[Result], None]


@dataclass(frozen=True)
class Workers:
    """Where cells run.

    Attributes:
        count: the number of processes.
        in_process: whether cells run in this process, for debugging.
    """

    count: int = 1
    in_process: bool = False


@dataclass(frozen=True, eq=False)
class Scores:
    """The answers of a candidate, those of all models and tasks one after another.

    Attributes:
        correct: the metric of each sample, the mean over seeds, float64 `[samples]`.
        clusters: what is drawn together: the task and the picture of each sample.
        pairs: the model and the task of each sample.
        cost: the share of the unpruned model's cost, the mean over models and tasks.
        tokens: the share of its visual tokens in the language model, likewise.
    """

    correct: Floats
    clusters: tuple[tuple[str, str], ...]
    pairs: tuple[tuple[str, str], ...]
    cost: float
    tokens: float

    @property
    def measured(self) -> Measured:
        """Return accuracy and cost; every model and task has the same weight."""
        by_pair: dict[tuple[str, str], list[float]] = {}
        for pair, value in zip(self.pairs, self.correct.tolist(), strict=True):
            by_pair.setdefault(pair, []).append(value)
        return Measured(float(np.mean([np.mean(values) for values in by_pair.values()])), self.cost)


def with_part(study: Study, part: tuple[Fraction, Fraction]) -> Study:
    """Return a study that asks about a part of the pictures.

    A task that already asks about a part is asked about this part of it.
    """

    def inner(own: tuple[Fraction, Fraction] | None) -> tuple[Fraction, Fraction]:
        low, high = own or (Fraction(0), Fraction(1))
        return low + (high - low) * part[0], low + (high - low) * part[1]

    tasks = tuple(task.model_copy(update={"part": inner(task.part)}) for task in study.tasks)
    return study.model_copy(update={"tasks": tasks})


class Bench:
    """The models and tasks of a study on a part of its pictures, and what was measured there.

    Args:
        study: models, tasks, seeds and batch.
        part: both ends of the part of each task's pictures.
        store: where finished cells are.
        registry: where names are looked up.
        cost: what accuracy is searched against.
        opened: the models of the study, if they are open already.
    """

    def __init__(
        self,
        study: Study,
        part: tuple[Fraction, Fraction],
        store: Store,
        registry: Registry,
        cost: Cost,
        opened: Sequence[OpenedModel] | None = None,
    ) -> None:
        self.study = with_part(study, part)
        self.store = store
        self._registry = registry
        self._cost: Cost = cost
        self._models = opened or [
            open_model(model, registry, download=True, location=study.location("models", index))
            for index, model in enumerate(study.models)
        ]
        tasks = [prepare_task(self.study, index, registry) for index in range(len(self.study.tasks))]
        self._pairs: list[tuple[OpenedModel, PreparedTask]] = [
            (opened, task)
            for opened in self._models
            for task in tasks
            if task.entry.models is None or opened.model.name in task.entry.models
        ]
        if not self._pairs:
            raise StudyError("no task asks any model of the study, so there is nothing to measure")
        for _, task in self._pairs:
            if len({sample.image for sample in task.samples}) < 2:
                raise RefusedError(
                    f"the part of '{task.entry.name}' has fewer than two pictures; give the task more pictures"
                )
        self._scores: dict[str, Scores] = {}
        self._whole: dict[str, list[Row]] = {}

    @property
    def models(self) -> Sequence[OpenedModel]:
        """Return the models."""
        return self._models

    # Before anything runs

    def why_not(self, recipe: Recipe, strict: bool = True) -> str | None:
        """Return why a recipe is refused; none if it can be measured.

        Args:
            recipe: the recipe with its budget.
            strict: whether warnings count, too: what is found must be a recipe that `check` accepts.
        """
        for opened in self._models:
            adapter = opened.adapter
            if adapter is None:
                continue
            # The whole review runs the algebra, which is slow; errors are found without.
            findings = find_errors(recipe, adapter) or (review(recipe, adapter) if strict else [])
            for finding in findings:
                if finding.level in ("error", "warning"):
                    return f"{opened.model.name}: {finding}"
        return None

    # Running

    def run(
        self, candidates: Mapping[str, Candidate], workers: Workers, on_result: OnResult = lambda _: None
    ) -> dict[str, str]:
        """Measure candidates, and the unpruned models; what is in the store is not run again.

        Args:
            candidates: candidates by name.
            workers: where cells run.
            on_result: called with every result.

        Returns:
            Why candidates failed, by name.
        """
        jobs = {name: self._jobs(name, candidate) for name, candidate in candidates.items()}
        wanted = {job.cell.key: job for some in [self._unpruned(), *jobs.values()] for job in some}
        finished = self.store.finished()
        left = [job for key, job in wanted.items() if key not in finished]
        # Model by model and task by task, so that each is loaded once.
        order = {(opened.model.name, task.entry.name): n for n, (opened, task) in enumerate(self._pairs)}
        left.sort(key=lambda job: order[job.cell.model, job.cell.task])
        self._begin(wanted.values())
        run_local(
            left,
            self.store,
            self._registry,
            on_result,
            workers.count,
            timeout=self.study.cell_timeout,
            in_process=workers.in_process,
        )
        finished = self.store.finished()
        reasons = {failure.cell.key: failure.reason for failure in self.store.failures()}
        failed = {}
        for name, some in {"unpruned": self._unpruned(), **jobs}.items():
            missing = [job.cell.key for job in some if job.cell.key not in finished]
            if missing:
                failed[name] = reasons.get(missing[0], "its cell has no result")
        if "unpruned" in failed:
            raise StudyError(f"the unpruned model cannot be asked: {failed['unpruned']}")
        return failed

    def scores(self, candidate: Candidate | None) -> Scores:
        """Return the answers of a measured candidate; of the unpruned model for none.

        Raises:
            StudyError: if a cell of it is not in the store.
        """
        key = "" if candidate is None else candidate.hash
        if key not in self._scores:
            self._scores[key] = self._read(candidate)
        return self._scores[key]

    def has(self, candidate: Candidate) -> bool:
        """Return whether all cells of a candidate are finished."""
        return all(self.store.has(job.cell.key) for job in self._jobs("", candidate))

    def _read(self, candidate: Candidate | None) -> Scores:
        correct: list[Floats] = []
        clusters: list[tuple[str, str]] = []
        pairs: list[tuple[str, str]] = []
        costs, tokens = [], []
        for opened, task in self._pairs:
            whole = self._unpruned_rows(opened, task)
            jobs = [] if candidate is None else self._pair_jobs("", candidate, opened, task)
            drawn = [self.store.read(job.cell.key)[1] for job in jobs] or [whole]
            correct.append(np.mean([[row.correct for row in rows] for rows in drawn], axis=0))
            clusters += [(task.entry.name, row.image) for row in drawn[0]]
            pairs += [(opened.model.name, task.entry.name)] * len(drawn[0])
            costs.append(np.mean([cost_of(rows, whole, self._cost) for rows in drawn]))
            tokens.append(np.mean([cost_of(rows, whole, "tokens") for rows in drawn]))
        return Scores(
            np.concatenate(correct), tuple(clusters), tuple(pairs), float(np.mean(costs)), float(np.mean(tokens))
        )

    def _unpruned_rows(self, opened: OpenedModel, task: PreparedTask) -> list[Row]:
        """Return the rows of the unpruned model, to which every candidate is relative; they are read once."""
        key = self._unpruned_job(opened, task).cell.key
        if key not in self._whole:
            self._whole[key] = self.store.read(key)[1]
        return self._whole[key]

    def _begin(self, jobs: Iterable[Job]) -> None:
        """Write the study, and the plan with all cells so far, so that a report finds them."""
        known = self.store.plan()
        cells = {one["key"]: one for one in known.get("cells", ())}
        for job in jobs:
            cells.setdefault(job.cell.key, job.planned)
        self.store.begin(self.study.dump(), {"keys": list(cells), "cells": list(cells.values()), "skipped": []})

    def _jobs(self, name: str, candidate: Candidate) -> list[Job]:
        return [job for pair in self._pairs for job in self._pair_jobs(name, candidate, *pair)]

    def _pair_jobs(self, name: str, candidate: Candidate, opened: OpenedModel, task: PreparedTask) -> list[Job]:
        recipe = candidate.recipe
        seeded: list[tuple[int | None, Recipe]] = [(None, recipe)]
        if draws_at_random(recipe):
            seeded = [(seed, with_seed(recipe, seed)) for seed in self.study.seeds]
        shape = content_hash(cut_shape(recipe))
        cells = [PlannedCell("method", name, None, candidate.budget, seed, one, shape) for seed, one in seeded]
        return [make_job(self.study, opened, task, cell) for cell in cells]

    def _unpruned(self) -> list[Job]:
        return [self._unpruned_job(*pair) for pair in self._pairs]

    def _unpruned_job(self, opened: OpenedModel, task: PreparedTask) -> Job:
        return make_job(self.study, opened, task, PlannedCell("unpruned", "unpruned"))


def cost_of(rows: Sequence[Row], whole: Sequence[Row], cost: Cost) -> float:
    """Return the share of the unpruned model's cost that rows have.

    Args:
        rows: of a recipe.
        whole: of the unpruned model on the same samples.
        cost: which cost.
    """
    if cost == "ms":
        return sum(row.ms for row in rows) / max(sum(row.ms for row in whole), 1e-9)
    if cost == "flops":
        return sum(row.flops for row in rows) / sum(row.flops_unpruned for row in rows)
    tokens = sum(float(np.mean(row.per_layer)) for row in rows)
    return tokens / max(sum(row.visual for row in rows), 1)


class CellMeasuring:
    """Measures the trials of a search as cells on a bench.

    Args:
        bench: models, tasks and the part of the pictures.
        workers: where cells run.
        on_result: called with every result of a cell.
    """

    def __init__(self, bench: Bench, workers: Workers, on_result: OnResult = lambda _: None) -> None:
        self._bench = bench
        self._workers = workers
        self._on_result = on_result

    def why_not(self, candidate: Candidate) -> str | None:
        """Return why a candidate is refused, or none."""
        return self._bench.why_not(candidate.recipe)

    def measure(self, candidates: Mapping[str, Candidate]) -> dict[str, Trial]:
        """Return a measured or failed trial for every candidate, by its name."""
        if not candidates:
            return {}
        failed = self._bench.run(candidates, self._workers, self._on_result)
        return {
            name: Trial(name, "failed", one, reason=failed[name])
            if name in failed
            else Trial(name, "measured", one, self._bench.scores(one).measured)
            for name, one in candidates.items()
        }
