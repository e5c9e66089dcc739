"""Running a cell: one model with one recipe answers every sample of a task, with a row for each."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tokensieve.checkpoints.loaded_model import LoadedModel, quiet
from tokensieve.checkpoints.loading import load
from tokensieve.cost.language_model import LayerCost, prefill_flops
from tokensieve.engine import PruneHandle, prune, share_vision
from tokensieve.engine.cache import NAMES
from tokensieve.errors import RefusedError, StudyError, TaskError
from tokensieve.ledger.run import Run
from tokensieve.models.pictures import VisualInput
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe
from tokensieve.study.planning.checkpoints import checkpoint_folder, query_encoder_folder
from tokensieve.study.planning.controls import recipe_of_cell, with_needed_tokens
from tokensieve.study.planning.jobs import Job
from tokensieve.study.rows import Cell, Row
from tokensieve.study.running.pictures import grid_of, load_picture, needed_tokens, picture_notes
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
from tokensieve.study.running.shares import Needs, asking, budgets_over_task, meets_over_task, needs_of
from tokensieve.study.running.timing import PrefillTimer, synchronized_time
from tokensieve.study.sampling import sample_key, select_samples
from tokensieve.study.spec.plugins import register_plugins
from tokensieve.tasks.base import Answer, Sample, Task

SHARED_IMAGES_NOTE = (
    "pictures were encoded once for several cells; the encoder's time was measured separately, and added to every ms"
)
"""A note of cells that share encoded images with others."""


class Runner:
    """Runs cells one after the other, and keeps the latest model and task for the next one.

    If cells come model by model and task by task, each model is loaded once.

    Args:
        registry: where adapters, strategies and tasks are looked up.
        device: the device of models for which the study names none.
    """

    def __init__(self, registry: Registry, device: str | None = None) -> None:
        self._registry = registry
        self._device = device
        self._session: ModelSession | None = None
        self._task: tuple[Job, Task, list[Sample]] | None = None

    def run(self, job: Job) -> tuple[Cell, list[Row]]:
        """Run a cell.

        Returns:
            The cell, with its grid, notes and device, and a row for every sample.

        Raises:
            Exception: anything that a model, a task or a plugin raises.
        """
        register_plugins(job.plugins, self._registry)
        session = self._open_session(job)
        task, samples = self._load_samples(job)
        rows: list[Row] = []
        grids: set[Grid | None] = set()
        notes: dict[str, None] = {}
        recipe = recipe_of_cell(job.cell, self._registry)
        if not session.warmed_up:
            # What the first batch does once, such as choosing kernels, must not be measured.
            self._run_first_batch(job, session, task, samples)
            session.warmed_up = True
        size = _batch_size(job, samples)
        budgets = None
        if recipe is not None and meets_over_task(recipe):
            budgets = self._budgets_over_task(session, recipe, task, samples, size)
        for start in range(0, len(samples), size):
            batch = samples[start : start + size]
            pictures = [load_picture(task, sample) for sample in batch]
            grids |= {grid_of(session, picture) for picture in pictures}
            result = self._answer_batch(job, session, recipe, task, batch, pictures, budgets)
            rows += self._rows(job, session, task, batch, pictures, result)
            shared = [SHARED_IMAGES_NOTE] if result.shared else []
            notes |= dict.fromkeys([*picture_notes(pictures), *ledger_notes(result.run), *shared])
        device = str(session.ready.model.device)
        cell = replace(
            job.cell,
            adapter=session.ready.adapter.name,
            grid=grids.pop() if len(grids) == 1 else None,
            versions={**job.cell.versions, "device": device},
            notes=tuple(notes),
        )
        return cell, rows

    def probe(self, job: Job) -> float:
        """Return the milliseconds for a sample that the unpruned model takes for a batch of the task of a cell."""
        register_plugins(job.plugins, self._registry)
        session = self._open_session(job)
        task, samples = self._load_samples(job)
        self._run_first_batch(job, session, task, samples)
        return self._run_first_batch(job, session, task, samples)

    def _run_first_batch(self, job: Job, session: ModelSession, task: Task, samples: Sequence[Sample]) -> float:
        """Run the unpruned model on the first batch, and return the milliseconds for a sample."""
        first = samples[: _batch_size(job, samples)]
        pictures = [load_picture(task, one) for one in first]
        later = session.later_turns(pictures[0], first)
        result = self._forward(session.ready, session.batch_inputs(pictures, first), task, None, later)
        if session.vision_cache is not None:
            # The time of encoding these images was not measured, so they are encoded again.
            session.vision_cache.forget()
        return result.ms

    def free(self) -> None:
        """Free the memory of the model."""
        if self._session is not None:
            self._session.stack.close()
        self._session = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # Models and tasks

    def _open_session(self, job: Job) -> ModelSession:
        known = self._session
        if known is not None and _same_model(known.job, job):
            return known
        self.free()
        folder = checkpoint_folder(job.model.path, self._registry, job.model.revision, download=True)
        if folder is None:
            raise StudyError(f"the checkpoint '{job.model.path}' is not here")
        query_encoder = query_encoder_folder(job.model, self._registry, download=True)
        ready = load(folder, self._registry, (), job.model.device or self._device, job.model.dtype)
        decoder = ready.adapter.decoder
        if decoder is None:
            raise RefusedError(f"{type(ready.model).__name__} has no language model to ask")
        layers = tuple(LayerCost.of(layer, decoder.text_config) for layer in decoder.layers)
        loaded = None if query_encoder is None else load_query_encoder(query_encoder, job, ready)
        session = ModelSession(job, ready, loaded, layers)
        if job.share:
            session.vision_cache = session.stack.enter_context(share_vision(ready.model, registry=self._registry))
        self._session = session
        return session

    def _load_samples(self, job: Job) -> tuple[Task, list[Sample]]:
        known = self._task
        if known is None or known[0].task != job.task or known[0].limit != job.limit:
            task = job.task.build(self._registry)
            known = self._task = job, task, select_samples(task.samples(), job.limit, job.task.part)
            if self._session is not None:
                self._session.clear_task()
        return known[1], known[2]

    # Answers

    def _budgets_over_task(
        self, session: ModelSession, recipe: Recipe, task: Task, samples: Sequence[Sample], size: int
    ) -> dict[int, tuple[int, ...]]:
        """Return by sample key how many tokens of each group stay where all samples share a budget.

        Args:
            session: the model.
            recipe: the recipe.
            task: the task.
            samples: all that the study asks.
            size: of the batches in which they are asked what they need.
        """
        needs: dict[int, Needs] = {}
        for start in range(0, len(samples), size):
            batch = samples[start : start + size]
            inputs = session.batch_inputs([load_picture(task, sample) for sample in batch], batch)
            keys = [sample_key(sample.id) for sample in batch]
            with self._pruned(session, asking(recipe), keys) as run, torch.no_grad(), quiet():
                session.ready.model(**inputs, use_cache=False, logits_to_keep=1)
            needs |= needs_of(run, keys)
        if session.vision_cache is not None:
            # The time of encoding these images was not measured, so they are encoded again.
            session.vision_cache.forget()
        return budgets_over_task(recipe, needs)

    def _pruned(
        self,
        session: ModelSession,
        recipe: Recipe,
        keys: Sequence[int],
        budgets: Mapping[int, Sequence[int]] | None = None,
    ) -> PruneHandle:
        """Return what prunes the model of a session by a recipe, with the sample keys of a batch."""
        return prune(
            session.ready.model,
            recipe,
            processor=session.ready.processor,
            query_encoder=session.query_encoder,
            keys=keys,
            budgets=budgets,
            registry=self._registry,
        )

    def _answer_batch(
        self,
        job: Job,
        session: ModelSession,
        recipe: Recipe | None,
        task: Task,
        batch: Sequence[Sample],
        pictures: Sequence[VisualInput],
        budgets: Mapping[int, Sequence[int]] | None = None,
    ) -> BatchResult:
        ready, role = session.ready, job.cell.role
        if task.compares:
            self._answer_unpruned(job, session, task, batch, pictures)
        if role == "text_only":
            later = session.later_turns(None, batch)
            return self._forward(ready, session.batch_inputs(None, batch), task, None, later)
        if role == "downsampled":
            if job.keep is None:
                raise StudyError("a smaller picture needs a budget")
            pictures = [session.downsample(picture, job.keep) for picture in pictures]
        size = str(job.keep) if role == "downsampled" else ""
        inputs, later = session.batch_inputs(pictures, batch, size), session.later_turns(pictures[0], batch)
        if recipe is None:
            return self._answer_with_shared_images(session, inputs, task, None, size, later)
        keys = [sample_key(sample.id) for sample in batch]
        if role.endswith("oracle"):
            recipe = with_needed_tokens(recipe, self._needed_by_key(session, task, batch, pictures, keys))
        with self._pruned(session, recipe, keys, budgets) as run:
            return self._answer_with_shared_images(session, inputs, task, run, size, later)

    def _answer_with_shared_images(
        self,
        session: ModelSession,
        inputs: Mapping[str, Any],
        task: Task,
        run: Run | None,
        size: str,
        later: Tensor | None,
    ) -> BatchResult:
        """Answer a batch whose images may be encoded already, and add the mean time of encoding an image.

        Images are encoded before anything is timed, so no time depends on which cell came first.
        """
        cache, decoder = session.vision_cache, session.ready.adapter.decoder
        encoder_time = session.encoder_times.setdefault(size, EncoderTime())
        inside = run is not None and any(stage.at.part != "decoder" for stage in run.recipe.stages)
        if cache is None or decoder is None or inside:
            return self._forward(session.ready, inputs, task, run, later)
        hits, misses, started = cache.hits, cache.misses, synchronized_time(session.ready.model)
        with torch.no_grad(), quiet():
            decoder.encode_visual_inputs(inputs)
        if (cache.hits, cache.misses) == (hits, misses):
            # Images of this family cannot be shared: every forward pass encodes them.
            session.vision_cache = None
            return self._forward(session.ready, inputs, task, run, later)
        if cache.misses > misses:
            encoder_time.seconds += synchronized_time(session.ready.model) - started
            encoder_time.pictures += cache.misses - misses
        result = self._forward(session.ready, inputs, task, run, later)
        return replace(result, ms=result.ms + encoder_time.ms, shared=True)

    def _forward(
        self,
        ready: LoadedModel,
        inputs: Mapping[str, Any],
        task: Task,
        run: Run | None,
        later: Tensor | None = None,
    ) -> BatchResult:
        """Answer a batch; one forward pass is enough if an answer is one token and no turn follows the first prompt.

        Args:
            ready: the model.
            inputs: the first prompts.
            task: the task.
            run: the ledger; none without a recipe.
            later: the ids of what follows the prompt of a talk, int64 `[1, n]`, which is answered from its cache.
        """
        model = ready.model
        settings = {"return_dict_in_generate": True, "output_logits": True, "do_sample": False}
        rows = len(inputs["input_ids"])
        with torch.no_grad(), quiet(), PrefillTimer(model) as timer:
            if later is not None:
                begun = model(**inputs, use_cache=True, logits_to_keep=1)
                ids = torch.cat([inputs["input_ids"], later], dim=1)
                name = next(name for name in NAMES if name in begun)
                going_on = {"input_ids": ids, "attention_mask": torch.ones_like(ids), name: begun[name]}
                written = model.generate(**going_on, max_new_tokens=task.longest, **settings)
                new, first = written.sequences[:, ids.shape[1] :], written.logits[0].float()
            elif task.longest == 1:
                first = model(**inputs, use_cache=True, logits_to_keep=1).logits[:, -1].float()
                new = first.argmax(dim=-1, keepdim=True)
            else:
                written = model.generate(**inputs, max_new_tokens=task.longest, **settings)
                new, first = written.sequences[:, inputs["input_ids"].shape[1] :], written.logits[0].float()
        texts = [str(ready.processor.decode(row, skip_special_tokens=True)).strip() for row in new]
        logits: Sequence[Tensor | None] = list(first.cpu()) if task.compares else [None] * rows
        answers = [Answer(t, one) for t, one in zip(texts, logits, strict=True)]
        return BatchResult(answers, timer.ms / rows, run, later=0 if later is None else later.shape[1])

    def _answer_unpruned(
        self, job: Job, session: ModelSession, task: Task, batch: Sequence[Sample], pictures: Sequence[VisualInput]
    ) -> None:
        """Answer a batch with the unpruned model, unless this was done before."""
        if all((job.task.name, sample.id) in session.unpruned for sample in batch):
            return
        inputs, later = session.batch_inputs(pictures, batch), session.later_turns(pictures[0], batch)
        result = self._forward(session.ready, inputs, task, None, later)
        for sample, answer in zip(batch, result.answers, strict=True):
            session.unpruned[job.task.name, sample.id] = answer

    # Rows

    def _needed_by_key(
        self,
        session: ModelSession,
        task: Task,
        batch: Sequence[Sample],
        pictures: Sequence[VisualInput],
        keys: Sequence[int],
    ) -> dict[int, frozenset[int]]:
        found = {}
        for sample, picture, key in zip(batch, pictures, keys, strict=True):
            if grid_of(session, picture) is None:
                raise StudyError(
                    f"the visual tokens of '{sample.id}' are no grid, so it is not known which of them are needed"
                )
            # If the answer needs no tokens, the oracle keeps random ones.
            found[key] = needed_tokens(session, task, sample, picture) or frozenset()
        return found

    def _rows(
        self,
        job: Job,
        session: ModelSession,
        task: Task,
        batch: Sequence[Sample],
        pictures: Sequence[VisualInput],
        result: BatchResult,
    ) -> Iterator[Row]:
        role = job.cell.role
        sizes = token_counts(job, session, batch, pictures, result)
        for i, (sample, picture) in enumerate(zip(batch, pictures, strict=True)):
            answer = result.answers[i]
            grades = dict(task.grade(sample, answer, session.unpruned.get((job.task.name, sample.id))))
            if task.metric not in grades:
                raise TaskError(f"the task '{task.name}' gives no grade '{task.metric}', its metric; it gives {grades}")
            needed = None if role == "downsampled" else needed_tokens(session, task, sample, picture)
            kept = kept_ids(result.run, i)
            text, visual, per_layer = sizes[i]
            tower_flops = result.run.tower_flops(i) if result.run is not None else None
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
                shares=operand_shares(result.run, i),
                needed=None if needed is None else len(needed),
                recall=recall_of(needed, role, result.run, i),
                flops=prefill_flops(session.layers, [text + n for n in per_layer]),
                flops_unpruned=prefill_flops(session.layers, [text + visual] * len(session.layers)),
                tower_flops=None if tower_flops is None else tower_flops[1],
                ms=result.ms,
                selection_ms=0.0 if result.run is None else selection_ms(result.run) / len(batch),
                batch=len(batch),
            )


def _batch_size(job: Job, samples: Sequence[Sample]) -> int:
    """Return how many samples are asked together; talks go on from a cache of their own."""
    return 1 if any(sample.turns for sample in samples) else job.batch


def _same_model(one: Job, other: Job) -> bool:
    """Return whether two jobs run on the same model with the same settings."""
    return (one.model, one.cell.model_hash, one.share) == (other.model, other.cell.model_hash, other.share)
