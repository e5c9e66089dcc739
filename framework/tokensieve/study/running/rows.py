"""The rows of a cell: what the model answered, and what the ledger counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from tokensieve.algebra.budget import count
from tokensieve.ledger.run import Run
from tokensieve.models.pictures import ImageOrVideo
from tokensieve.sites import Site
from tokensieve.study.planning.jobs import Job
from tokensieve.study.running.session import ModelSession
from tokensieve.tasks.base import Answer, Sample


@dataclass(frozen=True, eq=False)
class BatchResult:
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


def token_counts(
    job: Job, loaded: ModelSession, batch: Sequence[Sample], pictures: Sequence[ImageOrVideo], run: Run | None
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


def kept_ids(run: Run | None, row: int) -> tuple[tuple[int, ...], ...]:
    """Return the ids that a row of the batch kept, by stage."""
    stages = run.latest.stages if run is not None else ()
    return tuple(tuple(stage.samples[row].kept.tolist()) for stage in stages)


def operand_shares(run: Run | None, row: int) -> tuple[dict[str, float], ...]:
    """Return the share of each operand in what a row of the batch kept, by stage."""
    stages = run.latest.stages if run is not None else ()
    return tuple(dict(stage.samples[row].shares) for stage in stages)


def selection_ms(run: Run) -> float:
    """Return the milliseconds that selection took in the latest prefill."""
    return sum(stage.ms for stage in run.latest.stages)


def ledger_notes(run: Run | None) -> list[str]:
    """Return the notes of the latest prefill."""
    if run is None:
        return []
    return [*run.latest.notes, *(note for stage in run.latest.stages for note in stage.notes)]


def recall_of(needed: frozenset[int] | None, role: str, run: Run | None, row: int) -> float | None:
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
