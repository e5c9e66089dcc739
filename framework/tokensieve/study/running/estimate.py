"""What a study will cost: counted before it runs, and timed by a probe or by what has run already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tokensieve.algebra.budget import count
from tokensieve.checkpoints.loading import load_processor
from tokensieve.checkpoints.ready import LoadedModel, quiet
from tokensieve.cost.geometry import Geometry, cost, layer_costs
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

TEXT = 64
"""Text tokens of a prompt that nobody can count, because the processor is not here."""


@dataclass(frozen=True)
class Estimate:
    """What the cells of one model and task come to.

    Attributes:
        model: in the study.
        task: in the study.
        cells: how many.
        left: how many of them have not run yet.
        samples: in each.
        visual: visual tokens of the first sample's picture; none where they cannot be counted.
        flops: of the language model's prefills of what is left; none where they cannot be counted.
        seconds: that what is left takes one after the other; none where nothing was measured.
        basis: what the numbers are from.
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
    """Estimate every model and task.

    Args:
        jobs: of a plan.
        store: what of it has run already.
        registry: for adapters and tasks.
        probe: whether to load every model that is here, and time it.
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
    samples = select_samples(first.task.build(registry).samples(), first.limit)
    visual, text, basis = None, TEXT, "nothing: the checkpoint is not here, and no geometry is named"
    if opened.folder is not None and opened.adapter is not None:
        ready = LoadedModel(opened.adapter.model, load_processor(opened.folder), opened.adapter)
        picture = first.task.build(registry).shown(samples[0])
        visual, text = count_prompt_tokens(ready, picture, samples[0].question)
        basis = "the first sample's prompt"
    elif first.model.geometry is not None:
        visual = Geometry.load(registry.geometry(first.model.geometry)).visual
        basis = f"the geometry {first.model.geometry}, and {TEXT} text tokens"
    flops = None
    if visual is not None and opened.adapter is not None:
        layers, encoder = layer_costs(opened.adapter), opened.adapter.encoder
        # No family's tower that tokens leave in takes videos.
        reduces = encoder is not None and encoder.prunes_prompt and not samples[0].video
        flops = sum(_flops(job, layers, visual, text, reduces, registry) for job in left) * len(samples)
    ms = _measured(store, [job for job in group if job.cell.key in finished])
    if ms is None and probe and opened.folder is not None:
        ms = _probed(first, registry)
        basis += "; timed on one batch without pruning"
    elif ms is not None:
        basis += "; timed on cells that have run"
    seconds = None if ms is None else ms * len(left) * len(samples) / 1000
    return Estimate(
        first.cell.model, first.cell.task, len(group), len(left), len(samples), visual, flops, seconds, basis
    )


def _flops(job: Job, layers: Sequence[LayerCost], visual: int, text: int, reduces: bool, registry: Registry) -> int:
    """Count a cell's prefill of one sample; where what stays depends on the picture, as if all did."""
    recipe = recipe_of_cell(job.cell, registry)
    seen = 0 if job.cell.role == "text_only" else visual if job.keep is None else count(job.keep, visual)
    if recipe is None:
        return prefill_flops(layers, [text + seen] * len(layers))
    try:
        return cost(recipe, layers, [visual], text, reduces)
    except RefusedError:
        return prefill_flops(layers, [text + visual] * len(layers))


def _measured(store: Store, jobs: Iterable[Job]) -> float | None:
    """Return the mean milliseconds of a sample in cells that have run."""
    times = [row.ms for job in list(jobs)[:20] for row in store.read(job.cell.key)[1]]
    return sum(times) / len(times) if times else None


def _probed(job: Job, registry: Registry) -> float:
    """Time a batch of the unpruned model, and give its milliseconds a sample."""
    with quiet():
        return Runner(registry).probe(job)
