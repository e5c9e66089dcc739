"""The numbers of a row that come from the ledger of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokensieve.ledger.run import Run
from tokensieve.models.pictures import VisualInput
from tokensieve.sites import Site
from tokensieve.study.planning.jobs import Job
from tokensieve.study.running.session import ModelSession
from tokensieve.tasks.base import Answer, Sample


@dataclass(frozen=True, eq=False)
class BatchResult:
    """The answers of a model to a batch.

    Attributes:
        answers: one for each sample.
        ms: milliseconds of the prefill, divided by the number of samples.
        run: the ledger; none without a recipe.
        shared: whether the images were encoded before, so that the time for that was added.
        later: how many tokens followed the first prompt of a talk.
    """

    answers: Sequence[Answer]
    ms: float
    run: Run | None
    shared: bool = False
    later: int = 0


def token_counts(
    job: Job, session: ModelSession, batch: Sequence[Sample], pictures: Sequence[VisualInput], result: BatchResult
) -> list[tuple[int, int, tuple[int, ...]]]:
    """Return the numbers of text tokens, of visual tokens, and of visual tokens in each layer, for every sample.

    Text tokens are those of the whole talk, if there is one.
    """
    depth, run, later = len(session.layers), result.run, result.later
    if run is not None:
        latest = run.latest
        return [(latest.text[i] + later, latest.visual[i], tuple(run.visual_per_layer(i))) for i in range(len(batch))]
    found = []
    for sample, picture in zip(batch, pictures, strict=True):
        if job.cell.role == "text_only":
            found.append((session.count_tokens(None, sample.first_question)[1] + later, 0, (0,) * depth))
            continue
        visual, text = session.count_tokens(picture, sample.first_question)
        seen = visual
        if job.cell.role == "downsampled" and job.keep is not None:
            seen, _ = session.count_tokens(session.downsample(picture, job.keep), sample.first_question)
        found.append((text + later, visual, (seen,) * depth))
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
    """Return the share of the needed tokens that are left after the last stage outside the encoder; none if unknown."""
    if not needed:
        return None
    if run is None:
        return 0.0 if role == "text_only" else 1.0
    stages = [stage for stage in run.latest.stages if Site.of(stage.site).part != "encoder"]
    # Ids inside a vision encoder are those of patches, which need not be visual tokens.
    if not stages:
        return None
    return len(needed & set(stages[-1].samples[row].kept.tolist())) / len(needed)
