"""Running a cell: every sample of a task by one model under one recipe, and a row for each."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tokensieve.algebra.budget import count
from tokensieve.checkpoints.loading import load
from tokensieve.checkpoints.ready import LoadedModel, quiet
from tokensieve.cost.language_model import LayerCost, prefill_flops
from tokensieve.engine import prune, share_vision
from tokensieve.errors import RefusedError, StudyError, TaskError
from tokensieve.ledger.run import Run
from tokensieve.models.pictures import ImageOrVideo, Video
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe
from tokensieve.study.planning.checkpoints import checkpoint_folder, query_encoder_folder
from tokensieve.study.planning.controls import recipe_of_cell, with_needed_tokens
from tokensieve.study.planning.downsampling import NO_SMALLER_VIDEO, downsampled_size
from tokensieve.study.planning.jobs import Job
from tokensieve.study.rows import Cell, Row
from tokensieve.study.running.pictures import grid_of, load_picture, needed_tokens
from tokensieve.study.running.rows import (
    BatchResult,
    kept_ids,
    ledger_notes,
    operand_shares,
    recall_of,
    selection_ms,
    token_counts,
)
from tokensieve.study.running.session import EncoderTime, Grid, ModelSession, load_query_encoder
from tokensieve.study.running.timing import PrefillTimer, synchronized_time
from tokensieve.study.sampling import sample_key, select_samples
from tokensieve.study.spec.plugins import register_plugins
from tokensieve.tasks.base import Answer, Sample, Task

SHARED_IMAGES_NOTE = (
    "pictures were encoded once for several cells; the encoder's time was measured apart, and is in every sample's ms"
)
"""What the notes of a cell say whose pictures were not its own alone."""


class Runner:
    """Runs cells one after the other, and keeps the latest model and task for the next one.

    Cells come model by model and task by task; then a model is loaded once.

    Args:
        registry: for adapters, strategies and tasks.
        device: where models run that do not say it.
    """

    def __init__(self, registry: Registry, device: str | None = None) -> None:
        self._registry = registry
        self._device = device
        self._loaded: ModelSession | None = None
        self._task: tuple[Job, Task, list[Sample]] | None = None

    def run(self, job: Job) -> tuple[Cell, list[Row]]:
        """Run a cell.

        Returns:
            The cell, with what is known only now, and a row for every sample.

        Raises:
            Exception: whatever a model, a task or a plugin raises.
        """
        register_plugins(job.plugins, self._registry)
        loaded = self._model(job)
        task, samples = self._samples(job)
        rows: list[Row] = []
        grids: set[Grid | None] = set()
        notes: dict[str, None] = {}
        recipe = recipe_of_cell(job.cell, self._registry)
        if not loaded.warm:
            # What is only done once, such as choosing kernels, is in no measurement.
            self._first(job, loaded, task, samples)
            loaded.warm = True
        for start in range(0, len(samples), job.batch):
            batch = samples[start : start + job.batch]
            pictures = [load_picture(task, sample) for sample in batch]
            grids |= {grid_of(loaded, picture) for picture in pictures}
            outcome = self._asked(job, loaded, recipe, task, batch, pictures)
            rows += self._rows(job, loaded, task, batch, pictures, outcome)
            notes |= dict.fromkeys([*ledger_notes(outcome.run), *([SHARED_IMAGES_NOTE] if outcome.shared else [])])
        device = str(loaded.ready.model.device)
        cell = replace(
            job.cell,
            adapter=loaded.ready.adapter.name,
            grid=grids.pop() if len(grids) == 1 else None,
            versions={**job.cell.versions, "device": device},
            notes=tuple(notes),
        )
        return cell, rows

    def probe(self, job: Job) -> float:
        """Return the milliseconds a sample that the unpruned model takes for a batch of a cell's task."""
        register_plugins(job.plugins, self._registry)
        loaded = self._model(job)
        task, samples = self._samples(job)
        self._first(job, loaded, task, samples)
        return self._first(job, loaded, task, samples)

    def _first(self, job: Job, loaded: ModelSession, task: Task, samples: Sequence[Sample]) -> float:
        """Ask the unpruned model the first batch, and give its milliseconds a sample."""
        first = samples[: job.batch]
        inputs = loaded.ready.batch([load_picture(task, one) for one in first], [one.question for one in first])
        outcome = self._forward(loaded.ready, inputs, task, None)
        if loaded.sights is not None:
            # What these took is in no measurement either, so they are encoded again.
            loaded.sights.forget()
        return outcome.ms

    def forget(self) -> None:
        """Return back the memory of the model, such as after it ran out."""
        if self._loaded is not None:
            self._loaded.stack.close()
        self._loaded = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # What a cell needs

    def _model(self, job: Job) -> ModelSession:
        known = self._loaded
        if known is not None and _alike(known.job, job):
            return known
        self.forget()
        folder = checkpoint_folder(job.model.path, self._registry, job.model.revision, download=True)
        if folder is None:
            raise StudyError(f"the checkpoint '{job.model.path}' is not here")
        partner = query_encoder_folder(job.model, self._registry, download=True)
        ready = load(folder, self._registry, (), job.model.device or self._device, job.model.dtype)
        decoder = ready.adapter.decoder
        if decoder is None:
            raise RefusedError(f"{type(ready.model).__name__} has no language model to ask")
        layers = tuple(LayerCost.of(layer, decoder.text_config) for layer in decoder.layers)
        loaded = ModelSession(job, ready, None if partner is None else load_query_encoder(partner, job, ready), layers)
        if job.share:
            loaded.sights = loaded.stack.enter_context(share_vision(ready.model, registry=self._registry))
        self._loaded = loaded
        return loaded

    def _samples(self, job: Job) -> tuple[Task, list[Sample]]:
        known = self._task
        if known is None or known[0].task != job.task or known[0].limit != job.limit:
            task = job.task.build(self._registry)
            known = self._task = job, task, select_samples(task.samples(), job.limit)
            if self._loaded is not None:
                self._loaded.forget()
        return known[1], known[2]

    # Asking

    def _asked(
        self,
        job: Job,
        loaded: ModelSession,
        recipe: Recipe | None,
        task: Task,
        batch: Sequence[Sample],
        pictures: Sequence[ImageOrVideo],
    ) -> BatchResult:
        ready, role = loaded.ready, job.cell.role
        if task.compares:
            self._compare(job, loaded, task, batch, pictures)
        questions = [sample.question for sample in batch]
        if role == "text_only":
            return self._forward(ready, ready.batch(None, questions), task, None)
        if role == "downsampled":
            pictures = [self._smaller(job, loaded, picture) for picture in pictures]
        inputs = ready.batch(pictures, questions)
        size = str(job.keep) if role == "downsampled" else ""
        if recipe is None:
            return self._alone(loaded, inputs, task, None, size)
        keys = [sample_key(sample.id) for sample in batch]
        if role.endswith("oracle"):
            recipe = with_needed_tokens(recipe, self._needed(loaded, task, batch, pictures, keys))
        with prune(
            ready.model,
            recipe,
            processor=ready.processor,
            query_encoder=loaded.partner,
            keys=keys,
            registry=self._registry,
        ) as run:
            return self._alone(loaded, inputs, task, run, size)

    def _alone(
        self, loaded: ModelSession, inputs: Mapping[str, Any], task: Task, run: Run | None, size: str
    ) -> BatchResult:
        """Answer a batch as if its pictures were nobody else's: where they are known, their time is added.

        They are encoded before anything is timed. So it does not matter to any time which cell came first.
        """
        sights, decoder = loaded.sights, loaded.ready.adapter.decoder
        tower = loaded.towers.setdefault(size, EncoderTime())
        inside = run is not None and any(stage.at.part == "encoder" for stage in run.recipe.stages)
        if sights is None or decoder is None or inside:
            return self._forward(loaded.ready, inputs, task, run)
        hits, misses, started = sights.hits, sights.misses, synchronized_time(loaded.ready.model)
        with torch.no_grad(), quiet():
            decoder.encode_visual_inputs(inputs)
        if (sights.hits, sights.misses) == (hits, misses):
            # The family's pictures cannot be shared: forward passes encode them themselves.
            loaded.sights = None
            return self._forward(loaded.ready, inputs, task, run)
        if sights.misses > misses:
            tower.seconds += synchronized_time(loaded.ready.model) - started
            tower.pictures += sights.misses - misses
        outcome = self._forward(loaded.ready, inputs, task, run)
        return replace(outcome, ms=outcome.ms + tower.ms, shared=True)

    def _forward(self, ready: LoadedModel, inputs: Mapping[str, Any], task: Task, run: Run | None) -> BatchResult:
        """Answer a batch: by one forward pass where an answer is one token."""
        model = ready.model
        rows, length = inputs["input_ids"].shape
        with torch.no_grad(), quiet(), PrefillTimer(model) as watch:
            if task.longest == 1:
                first = model(**inputs, use_cache=True, logits_to_keep=1).logits[:, -1].float()
                new = first.argmax(dim=-1, keepdim=True)
            else:
                settings = {"return_dict_in_generate": True, "output_logits": True, "do_sample": False}
                written = model.generate(**inputs, max_new_tokens=task.longest, **settings)
                new, first = written.sequences[:, length:], written.logits[0].float()
        texts = [str(ready.processor.decode(row, skip_special_tokens=True)).strip() for row in new]
        logits: Sequence[Tensor | None] = list(first.cpu()) if task.compares else [None] * rows
        return BatchResult([Answer(t, one) for t, one in zip(texts, logits, strict=True)], watch.ms / rows, run)

    def _compare(
        self, job: Job, loaded: ModelSession, task: Task, batch: Sequence[Sample], pictures: Sequence[ImageOrVideo]
    ) -> None:
        """Ask the unpruned model, once for every sample."""
        if all((job.task.name, sample.id) in loaded.unpruned for sample in batch):
            return
        inputs = loaded.ready.batch(pictures, [sample.question for sample in batch])
        outcome = self._forward(loaded.ready, inputs, task, None)
        for sample, answer in zip(batch, outcome.answers, strict=True):
            loaded.unpruned[job.task.name, sample.id] = answer

    def _smaller(self, job: Job, loaded: ModelSession, picture: ImageOrVideo) -> Image.Image:
        if isinstance(picture, Video):
            raise StudyError(NO_SMALLER_VIDEO)
        if job.keep is None:
            raise StudyError("a smaller picture needs a budget")
        whole, _ = loaded.lengths(picture, "?")
        budget = count(job.keep, whole)
        if (picture.size, budget) not in loaded.sizes:
            size = downsampled_size(loaded.ready, picture, budget)
            if size is None:
                raise StudyError(f"the processor makes no picture of about {budget} tokens of one that has {whole}")
            loaded.sizes[picture.size, budget] = size
        return picture.resize(loaded.sizes[picture.size, budget], Image.Resampling.BICUBIC)

    # What answers need

    def _needed(
        self,
        loaded: ModelSession,
        task: Task,
        batch: Sequence[Sample],
        pictures: Sequence[ImageOrVideo],
        keys: Sequence[int],
    ) -> dict[int, frozenset[int]]:
        found = {}
        for sample, picture, key in zip(batch, pictures, keys, strict=True):
            if grid_of(loaded, picture) is None:
                raise StudyError(f"the visual tokens of '{sample.id}' are no grid, so nobody knows which are needed")
            # Where the answer needs none in particular, all are drawn.
            found[key] = needed_tokens(loaded, task, sample, picture) or frozenset()
        return found

    def _rows(
        self,
        job: Job,
        loaded: ModelSession,
        task: Task,
        batch: Sequence[Sample],
        pictures: Sequence[ImageOrVideo],
        outcome: BatchResult,
    ) -> Iterator[Row]:
        role = job.cell.role
        sizes = token_counts(job, loaded, batch, pictures, outcome.run)
        for i, (sample, picture) in enumerate(zip(batch, pictures, strict=True)):
            answer = outcome.answers[i]
            grades = dict(task.grade(sample, answer, loaded.unpruned.get((job.task.name, sample.id))))
            if task.metric not in grades:
                raise TaskError(f"the task '{task.name}' gives no grade '{task.metric}', its metric; it gives {grades}")
            needed = None if role == "downsampled" else needed_tokens(loaded, task, sample, picture)
            kept = kept_ids(outcome.run, i)
            text, visual, per_layer = sizes[i]
            tower = outcome.run.tower_flops(i) if outcome.run is not None else None
            yield Row(
                sample=sample.id,
                kind=sample.kind,
                image=sample.image,
                answer=answer.text,
                correct=float(grades[task.metric]),
                grades={name: float(value) for name, value in grades.items()},
                text=text,
                visual=visual,
                per_layer=per_layer,
                kept=kept,
                shares=operand_shares(outcome.run, i),
                needed=None if needed is None else len(needed),
                recall=recall_of(needed, role, outcome.run, i),
                flops=prefill_flops(loaded.layers, [text + n for n in per_layer]),
                flops_unpruned=prefill_flops(loaded.layers, [text + visual] * len(loaded.layers)),
                tower_flops=None if tower is None else tower[1],
                ms=outcome.ms,
                selection_ms=0.0 if outcome.run is None else selection_ms(outcome.run) / len(batch),
                batch=len(batch),
            )


def _alike(one: Job, other: Job) -> bool:
    """Return whether two jobs run on the same model in the same way."""
    return (one.model, one.cell.model_hash, one.share) == (other.model, other.cell.model_hash, other.share)
