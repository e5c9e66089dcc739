"""The cost of a study: FLOPs are counted, time is taken from a probe or from cells that have run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tokensieve.algebra.budget import count
from tokensieve.checkpoints.loaded_model import LoadedModel, quiet
from tokensieve.checkpoints.loading import load_processor
from tokensieve.cost.geometry import Geometry, layer_costs, pruned_prefill_flops
from tokensieve.cost.language_model import LayerCost, prefill_flops
from tokensieve.errors import RefusedError
from tokensieve.plugins.registry import Registry
from tokensieve.study.planning.controls import recipe_of_cell
from tokensieve.study.planning.downsampling import count_prompt_tokens
from tokensieve.study.planning.jobs import Job
from tokensieve.study.planning.models import OpenedModel, open_model
from tokensieve.study.running.runner import Runner
from tokensieve.study.sampling import select_samples
from tokensieve.study.spec.entries import ModelEntry
from tokensieve.study.store import Store

DEFAULT_TEXT_TOKENS = 64
"""The assumed number of text tokens of a prompt if the processor is not downloaded."""


@dataclass(frozen=True)
class Estimate:
    """The cost of the cells of one model and task.

    Attributes:
        model: the name of the model in the study.
        task: the name of the task in the study.
        cells: the number of cells.
        left: the number of cells that have not run yet.
        samples: the number of samples in each cell.
        visual: the visual tokens of the first sample's image or video; none if they cannot be counted.
        flops: counted FLOPs of the language model's prefills in the cells that are left; none if they are not known.
        seconds: the time that these cells take one after the other; none if nothing was measured.
        basis: where the numbers come from.
    """

    model: str
    task: str
    cells: int
    left: int
    samples: int
    visual: int | None
    flops: int | None
    seconds: float | None
    basis: str


def estimate_costs(jobs: Sequence[Job], store: Store, registry: Registry, probe: bool = False) -> list[Estimate]:
    """Return an estimate for every model and task.

    Args:
        jobs: the jobs of a plan.
        store: the cells that have run.
        registry: where adapters and tasks are looked up.
        probe: whether to load every downloaded model and time a batch.
    """
    finished = store.finished()
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.cell.model, job.cell.task), []).append(job)
    opened: dict[ModelEntry, OpenedModel] = {}
    for first, *_ in groups.values():
        if first.model not in opened:
            opened[first.model] = open_model(first.model, registry)
    return [_estimate(group, opened[group[0].model], store, finished, registry, probe) for group in groups.values()]


def _estimate(
    group: Sequence[Job], opened: OpenedModel, store: Store, finished: set[str], registry: Registry, probe: bool
) -> Estimate:
    first = group[0]
    left = [job for job in group if job.cell.key not in finished]
    samples = select_samples(first.task.build(registry).samples(), first.limit, first.task.part)
    visual, text, basis = None, DEFAULT_TEXT_TOKENS, "nothing: the checkpoint is not here, and no geometry is named"
    if opened.folder is not None and opened.adapter is not None:
        ready = LoadedModel(opened.adapter.model, load_processor(opened.folder), opened.adapter)
        picture = first.task.build(registry).shown(samples[0])
        visual, text = count_prompt_tokens(ready, picture, samples[0].first_question)
        basis = "the first sample's prompt"
    elif first.model.geometry is not None:
        visual = Geometry.load(registry.geometry(first.model.geometry)).num_visual_tokens
        basis = f"the geometry {first.model.geometry}, and {DEFAULT_TEXT_TOKENS} text tokens"
    flops = None
    if visual is not None and opened.adapter is not None:
        layers, encoder = layer_costs(opened.adapter), opened.adapter.encoder
        # Vision encoders that drop tokens of the prompt take no videos.
        encoder_prunes_prompt = encoder is not None and encoder.prunes_prompt and not samples[0].video
        flops = sum(_flops(job, layers, visual, text, encoder_prunes_prompt, registry) for job in left) * len(samples)
    ms = _mean_ms(store, [job for job in group if job.cell.key in finished])
    if ms is None and probe and opened.folder is not None:
        ms = _probe_ms(first, registry)
        basis += "; timed on one batch without pruning"
    elif ms is not None:
        basis += "; timed on cells that have run"
    seconds = None if ms is None else ms * len(left) * len(samples) / 1000
    return Estimate(
        first.cell.model, first.cell.task, len(group), len(left), len(samples), visual, flops, seconds, basis
    )


def _flops(
    job: Job, layers: Sequence[LayerCost], visual: int, text: int, encoder_prunes_prompt: bool, registry: Registry
) -> int:
    """Return the FLOPs of a prefill. If the number of kept tokens depends on the image, all count as kept."""
    recipe = recipe_of_cell(job.cell, registry)
    visible = 0 if job.cell.role == "text_only" else visual if job.keep is None else count(job.keep, visual)
    if recipe is None:
        return prefill_flops(layers, [text + visible] * len(layers))
    try:
        return pruned_prefill_flops(recipe, layers, [visual], text, encoder_prunes_prompt)
    except RefusedError:
        return prefill_flops(layers, [text + visual] * len(layers))


def _mean_ms(store: Store, jobs: Iterable[Job]) -> float | None:
    """Return the mean milliseconds for a sample in the first 20 of these cells; none without cells."""
    times = [row.ms for job in list(jobs)[:20] for row in store.read(job.cell.key)[1]]
    return sum(times) / len(times) if times else None


def _probe_ms(job: Job, registry: Registry) -> float:
    """Return the milliseconds for a sample in a batch of the unpruned model."""
    with quiet():
        return Runner(registry).probe(job)
