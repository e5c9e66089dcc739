"""Running a cell: every sample of a task by one model under one recipe, and a row for each."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tokensieve.algebra.budget import count
from tokensieve.checkpoints.loading import load
from tokensieve.checkpoints.ready import LoadedModel, quiet
from tokensieve.cost.language_model import LayerCost, prefill_flops
from tokensieve.engine import VisionCache, prune, share_vision
from tokensieve.errors import RefusedError, StudyError, TaskError, TokensieveError
from tokensieve.evidence import NEWLINE
from tokensieve.ledger.run import Run
from tokensieve.models.pictures import ImageOrVideo, Video
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe
from tokensieve.sites import Site
from tokensieve.study.cells import Job, chosen, sample_key
from tokensieve.study.controls import informed, recipe_of
from tokensieve.study.resolution import NOT_SMALLER, size_for, visual_tokens
from tokensieve.study.rows import Cell, Row
from tokensieve.study.sources import folder_of, partner_of
from tokensieve.study.spec import register
from tokensieve.tasks.base import Answer, Sample, Task

Grid = tuple[int, int]
SHARED = (
    "pictures were encoded once for several cells; the encoder's time was measured apart, and is in every sample's ms"
)
"""What the notes of a cell say whose pictures were not its own alone."""


@dataclass(frozen=True, eq=False)
class _Outcome:
    """What a model did with a batch.

    Attributes:
        answers: one a sample.
        ms: of the prefill, by sample.
        run: the ledger; none without a recipe.
        shared: whether its pictures were encoded before, and the time for that added.
    """

    answers: Sequence[Answer]
    ms: float
    run: Run | None
    shared: bool = False


@dataclass(eq=False)
class _Tower:
    """What encoding pictures took.

    Attributes:
        seconds: all together.
        pictures: how many were encoded in that time.
    """

    seconds: float = 0.0
    pictures: int = 0

    @property
    def ms(self) -> float:
        """Milliseconds a picture; 0 where none was measured."""
        return 1000 * self.seconds / self.pictures if self.pictures else 0.0


@dataclass(eq=False)
class _Loaded:
    """A model that is ready, and what was learnt with it.

    Attributes:
        job: whose model it is.
        ready: it.
        partner: its query encoder and that one's tokenizer, loaded once.
        layers: what each of its decoder's layers costs.
        grids: of the visual tokens, by the size of a picture.
        sizes: of smaller pictures, by the size of a picture and the budget.
        unpruned: what it answered without a recipe, by task and sample.
        needed: the tokens that answers need, by sample and grid.
        texts: visual and text tokens of prompts, by the size of a picture or video (none without one) and the question.
        warm: whether it has run yet.
        sights: its pictures that were encoded already; none where cells do not share them.
        towers: what encoding took, of whole pictures and of those made smaller for a budget.
        stack: what ends with it.
    """

    job: Job
    ready: LoadedModel
    partner: tuple[Any, Any] | None
    layers: tuple[LayerCost, ...]
    grids: dict[tuple[int, int], Grid | None] = field(default_factory=dict)
    sizes: dict[tuple[tuple[int, int], int], tuple[int, int]] = field(default_factory=dict)
    unpruned: dict[tuple[str, str], Answer] = field(default_factory=dict)
    needed: dict[tuple[str, Grid], frozenset[int] | None] = field(default_factory=dict)
    texts: dict[tuple[tuple[int, ...] | None, str], tuple[int, int]] = field(default_factory=dict)
    warm: bool = False
    sights: VisionCache | None = None
    towers: dict[str, _Tower] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)

    def forget(self) -> None:
        """Forget what was learnt of a task."""
        self.unpruned.clear()
        self.needed.clear()
        self.texts.clear()

    def lengths(self, picture: ImageOrVideo | None, question: str) -> tuple[int, int]:
        """Return how many visual and how many text tokens a prompt has, which its picture's or video's size decides."""
        key = None if picture is None else picture.size, question
        if key not in self.texts:
            self.texts[key] = visual_tokens(self.ready, picture, question)
        return self.texts[key]


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
        self._loaded: _Loaded | None = None
        self._task: tuple[Job, Task, list[Sample]] | None = None

    def run(self, job: Job) -> tuple[Cell, list[Row]]:
        """Run a cell.

        Returns:
            The cell, with what is known only now, and a row for every sample.

        Raises:
            Exception: whatever a model, a task or a plugin raises.
        """
        register(job.plugins, self._registry)
        loaded = self._model(job)
        task, samples = self._samples(job)
        rows: list[Row] = []
        grids: set[Grid | None] = set()
        notes: dict[str, None] = {}
        recipe = recipe_of(job.cell, self._registry)
        if not loaded.warm:
            # What is only done once, such as choosing kernels, is in no measurement.
            self._first(job, loaded, task, samples)
            loaded.warm = True
        for start in range(0, len(samples), job.batch):
            batch = samples[start : start + job.batch]
            pictures = [_picture(task, sample) for sample in batch]
            grids |= {_grid(loaded, picture) for picture in pictures}
            outcome = self._asked(job, loaded, recipe, task, batch, pictures)
            rows += self._rows(job, loaded, task, batch, pictures, outcome)
            notes |= dict.fromkeys([*_notes(outcome.run), *([SHARED] if outcome.shared else [])])
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
        register(job.plugins, self._registry)
        loaded = self._model(job)
        task, samples = self._samples(job)
        self._first(job, loaded, task, samples)
        return self._first(job, loaded, task, samples)

    def _first(self, job: Job, loaded: _Loaded, task: Task, samples: Sequence[Sample]) -> float:
        """Ask the unpruned model the first batch, and give its milliseconds a sample."""
        first = samples[: job.batch]
        inputs = loaded.ready.batch([_picture(task, one) for one in first], [one.question for one in first])
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

    def _model(self, job: Job) -> _Loaded:
        known = self._loaded
        if known is not None and _alike(known.job, job):
            return known
        self.forget()
        folder = folder_of(job.model.path, self._registry, job.model.revision, download=True)
        if folder is None:
            raise StudyError(f"the checkpoint '{job.model.path}' is not here")
        partner = partner_of(job.model, self._registry, download=True)
        ready = load(folder, self._registry, (), job.model.device or self._device, job.model.dtype)
        decoder = ready.adapter.decoder
        if decoder is None:
            raise RefusedError(f"{type(ready.model).__name__} has no language model to ask")
        layers = tuple(LayerCost.of(layer, decoder.text_config) for layer in decoder.layers)
        loaded = _Loaded(job, ready, None if partner is None else _pair(partner, job, ready), layers)
        if job.share:
            loaded.sights = loaded.stack.enter_context(share_vision(ready.model, registry=self._registry))
        self._loaded = loaded
        return loaded

    def _samples(self, job: Job) -> tuple[Task, list[Sample]]:
        known = self._task
        if known is None or known[0].task != job.task or known[0].limit != job.limit:
            task = job.task.task(self._registry)
            known = self._task = job, task, chosen(task.samples(), job.limit)
            if self._loaded is not None:
                self._loaded.forget()
        return known[1], known[2]

    # Asking

    def _asked(
        self,
        job: Job,
        loaded: _Loaded,
        recipe: Recipe | None,
        task: Task,
        batch: Sequence[Sample],
        pictures: Sequence[ImageOrVideo],
    ) -> _Outcome:
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
            recipe = informed(recipe, self._needed(loaded, task, batch, pictures, keys))
        with prune(
            ready.model,
            recipe,
            processor=ready.processor,
            query_encoder=loaded.partner,
            keys=keys,
            registry=self._registry,
        ) as run:
            return self._alone(loaded, inputs, task, run, size)

    def _alone(self, loaded: _Loaded, inputs: Mapping[str, Any], task: Task, run: Run | None, size: str) -> _Outcome:
        """Answer a batch as if its pictures were nobody else's: where they are known, their time is added.

        They are encoded before anything is timed. So it does not matter to any time which cell came first.
        """
        sights, decoder = loaded.sights, loaded.ready.adapter.decoder
        tower = loaded.towers.setdefault(size, _Tower())
        inside = run is not None and any(stage.at.part == "encoder" for stage in run.recipe.stages)
        if sights is None or decoder is None or inside:
            return self._forward(loaded.ready, inputs, task, run)
        hits, misses, started = sights.hits, sights.misses, _now(loaded.ready.model)
        with torch.no_grad(), quiet():
            decoder.encode(inputs)
        if (sights.hits, sights.misses) == (hits, misses):
            # The family's pictures cannot be shared: forward passes encode them themselves.
            loaded.sights = None
            return self._forward(loaded.ready, inputs, task, run)
        if sights.misses > misses:
            tower.seconds += _now(loaded.ready.model) - started
            tower.pictures += sights.misses - misses
        outcome = self._forward(loaded.ready, inputs, task, run)
        return replace(outcome, ms=outcome.ms + tower.ms, shared=True)

    def _forward(self, ready: LoadedModel, inputs: Mapping[str, Any], task: Task, run: Run | None) -> _Outcome:
        """Answer a batch: by one forward pass where an answer is one token."""
        model = ready.model
        rows, length = inputs["input_ids"].shape
        with torch.no_grad(), quiet(), _Watch(model) as watch:
            if task.longest == 1:
                first = model(**inputs, use_cache=True, logits_to_keep=1).logits[:, -1].float()
                new = first.argmax(dim=-1, keepdim=True)
            else:
                settings = {"return_dict_in_generate": True, "output_logits": True, "do_sample": False}
                written = model.generate(**inputs, max_new_tokens=task.longest, **settings)
                new, first = written.sequences[:, length:], written.logits[0].float()
        texts = [str(ready.processor.decode(row, skip_special_tokens=True)).strip() for row in new]
        logits: Sequence[Tensor | None] = list(first.cpu()) if task.compares else [None] * rows
        return _Outcome([Answer(t, one) for t, one in zip(texts, logits, strict=True)], watch.ms / rows, run)

    def _compare(
        self, job: Job, loaded: _Loaded, task: Task, batch: Sequence[Sample], pictures: Sequence[ImageOrVideo]
    ) -> None:
        """Ask the unpruned model, once for every sample."""
        if all((job.task.name, sample.id) in loaded.unpruned for sample in batch):
            return
        inputs = loaded.ready.batch(pictures, [sample.question for sample in batch])
        outcome = self._forward(loaded.ready, inputs, task, None)
        for sample, answer in zip(batch, outcome.answers, strict=True):
            loaded.unpruned[job.task.name, sample.id] = answer

    def _smaller(self, job: Job, loaded: _Loaded, picture: ImageOrVideo) -> Image.Image:
        if isinstance(picture, Video):
            raise StudyError(NOT_SMALLER)
        if job.keep is None:
            raise StudyError("a smaller picture needs a budget")
        whole, _ = loaded.lengths(picture, "?")
        budget = count(job.keep, whole)
        if (picture.size, budget) not in loaded.sizes:
            size = size_for(loaded.ready, picture, budget)
            if size is None:
                raise StudyError(f"the processor makes no picture of about {budget} tokens of one that has {whole}")
            loaded.sizes[picture.size, budget] = size
        return picture.resize(loaded.sizes[picture.size, budget], Image.Resampling.BICUBIC)

    # What answers need

    def _needed(
        self,
        loaded: _Loaded,
        task: Task,
        batch: Sequence[Sample],
        pictures: Sequence[ImageOrVideo],
        keys: Sequence[int],
    ) -> dict[int, frozenset[int]]:
        found = {}
        for sample, picture, key in zip(batch, pictures, keys, strict=True):
            if _grid(loaded, picture) is None:
                raise StudyError(f"the visual tokens of '{sample.id}' are no grid, so nobody knows which are needed")
            # Where the answer needs none in particular, all are drawn.
            found[key] = _needed(loaded, task, sample, picture) or frozenset()
        return found

    def _rows(
        self,
        job: Job,
        loaded: _Loaded,
        task: Task,
        batch: Sequence[Sample],
        pictures: Sequence[ImageOrVideo],
        outcome: _Outcome,
    ) -> Iterator[Row]:
        role = job.cell.role
        sizes = _sizes(job, loaded, batch, pictures, outcome.run)
        for i, (sample, picture) in enumerate(zip(batch, pictures, strict=True)):
            answer = outcome.answers[i]
            grades = dict(task.grade(sample, answer, loaded.unpruned.get((job.task.name, sample.id))))
            if task.metric not in grades:
                raise TaskError(f"the task '{task.name}' gives no grade '{task.metric}', its metric; it gives {grades}")
            needed = None if role == "downsampled" else _needed(loaded, task, sample, picture)
            kept = _kept(outcome.run, i)
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
                shares=_shares(outcome.run, i),
                needed=None if needed is None else len(needed),
                recall=_recall(needed, role, outcome.run, i),
                flops=prefill_flops(loaded.layers, [text + n for n in per_layer]),
                flops_unpruned=prefill_flops(loaded.layers, [text + visual] * len(loaded.layers)),
                tower_flops=None if tower is None else tower[1],
                ms=outcome.ms,
                selection_ms=0.0 if outcome.run is None else _selection_ms(outcome.run) / len(batch),
                batch=len(batch),
            )


def _pair(folder: Path, job: Job, ready: LoadedModel) -> tuple[Any, Any]:
    """Load a two-tower model, to where the other one is, and its tokenizer."""
    from transformers import AutoModel, AutoTokenizer

    with quiet():
        model = AutoModel.from_pretrained(folder).eval().to(ready.model.device)
        # A copy of a release is known by the release's name, not by the folder that it lies in.
        model.config._name_or_path = job.model.query_encoder or str(folder)
        return model, AutoTokenizer.from_pretrained(folder)


class _Watch:
    """Measures a prefill: from here to the end of the first forward pass.

    `generate` encodes pictures before it calls the model, and goes on after it.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.ms = 0.0

    def __enter__(self) -> _Watch:
        self._hook = self._model.register_forward_hook(self._first)
        self._start = _now(self._model)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _first(self, *_: object) -> None:
        if not self.ms:
            self.ms = 1000 * (_now(self._model) - self._start)


def _now(model: Any) -> float:
    """Return the time in seconds, once the model's device has done what it was asked."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter()


def _alike(one: Job, other: Job) -> bool:
    """Return whether two jobs run on the same model in the same way."""
    return (one.model, one.cell.model_hash, one.share) == (other.model, other.cell.model_hash, other.share)


def _picture(task: Task, sample: Sample) -> ImageOrVideo:
    try:
        return task.shown(sample)
    except TokensieveError:
        raise
    # What decoders raise over a broken file is not documented.
    except Exception as error:
        raise TaskError(f"the picture of '{sample.id}' cannot be read: {type(error).__name__}: {error}") from error


def _needed(loaded: _Loaded, task: Task, sample: Sample, picture: ImageOrVideo) -> frozenset[int] | None:
    grid = _grid(loaded, picture)
    if grid is None:
        return None
    if (sample.id, grid) not in loaded.needed:
        found = task.needed(sample, *grid)
        loaded.needed[sample.id, grid] = None if found is None else frozenset(int(one) for one in found)
    return loaded.needed[sample.id, grid]


def _grid(loaded: _Loaded, picture: ImageOrVideo) -> Grid | None:
    """Return rows and columns of a picture's visual tokens, where they are one grid."""
    if isinstance(picture, Video):
        return None
    if picture.size not in loaded.grids:
        loaded.grids[picture.size] = _layout(loaded.ready, picture)
    return loaded.grids[picture.size]


def _layout(ready: LoadedModel, picture: Image.Image) -> Grid | None:
    decoder = ready.adapter.decoder
    if decoder is None:
        return None
    # Where tokens are depends on a picture's size alone; and what is shared shall be encoded with its own batch.
    inputs = ready.batch([Image.new("RGB", picture.size)], ["?"])
    with torch.no_grad(), quiet():
        outputs = decoder.encode(inputs)
        layouts = [one for name, output in outputs.items() for one in decoder.layout(name, output, inputs)]
    if len(layouts) != 1 or bool((layouts[0][:, 3] == NEWLINE).any()) or bool((layouts[0][:, :2] != 0).any()):
        return None
    rows, columns = (int(n) + 1 for n in layouts[0][:, 2:].amax(dim=0))
    place = layouts[0][:, 2] * columns + layouts[0][:, 3]
    whole = torch.equal(place, torch.arange(rows * columns, device=place.device))
    return (rows, columns) if whole else None


def _sizes(
    job: Job, loaded: _Loaded, batch: Sequence[Sample], pictures: Sequence[ImageOrVideo], run: Run | None
) -> list[tuple[int, int, tuple[int, ...]]]:
    """Return text tokens, visual tokens, and visual tokens by layer, of every sample."""
    depth = len(loaded.layers)
    if run is not None:
        latest = run.latest
        return [(latest.text[i], latest.visual[i], tuple(run.visual_per_layer(i))) for i in range(len(batch))]
    found = []
    for sample, picture in zip(batch, pictures, strict=True):
        if job.cell.role == "text_only":
            found.append((loaded.lengths(None, sample.question)[1], 0, (0,) * depth))
            continue
        visual, text = loaded.lengths(picture, sample.question)
        seen = visual
        if job.cell.role == "downsampled" and isinstance(picture, Image.Image):
            budget = count(job.keep, visual) if job.keep is not None else visual
            size = loaded.sizes[picture.size, budget]
            seen, _ = loaded.lengths(picture.resize(size), sample.question)
        found.append((text, visual, (seen,) * depth))
    return found


def _kept(run: Run | None, row: int) -> tuple[tuple[int, ...], ...]:
    stages = run.latest.stages if run is not None else ()
    return tuple(tuple(stage.samples[row].kept.tolist()) for stage in stages)


def _shares(run: Run | None, row: int) -> tuple[dict[str, float], ...]:
    stages = run.latest.stages if run is not None else ()
    return tuple(dict(stage.samples[row].shares) for stage in stages)


def _selection_ms(run: Run) -> float:
    return sum(stage.ms for stage in run.latest.stages)


def _notes(run: Run | None) -> list[str]:
    if run is None:
        return []
    return [*run.latest.notes, *(note for stage in run.latest.stages for note in stage.notes)]


def _recall(needed: frozenset[int] | None, role: str, run: Run | None, row: int) -> float | None:
    """Return the part of the needed tokens that the last layers still had."""
    if not needed:
        return None
    if run is None:
        return 0.0 if role == "text_only" else 1.0
    stages = [stage for stage in run.latest.stages if Site.of(stage.site).part == "decoder"]
    # Inside a vision encoder ids are places of patches, which need not be tokens.
    if not stages:
        return None
    return len(needed & set(stages[-1].samples[row].kept.tolist())) / len(needed)
