"""A cell of a study, its rows, and its failure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FORMAT = "tokensieve.cell/1"

TIMES = ("ms", "selection_ms")
"""The columns that may differ between two runs of the same cell."""


@dataclass(frozen=True)
class Row:
    """The result of a method on a sample.

    Attributes:
        sample: the sample's id.
        kind: its type of question; may be empty.
        image: the name of its image or video.
        answer: the answer of the model.
        correct: the task's metric, in [0, 1].
        grades: all grades by name, including the metric.
        text: text tokens of the prompt.
        visual: visual tokens of the prompt, before pruning.
        per_layer: visual tokens in each decoder layer.
        kept: by stage of the recipe, the sorted ids of kept tokens; empty for the unpruned model.
        shares: by stage and operand, the share of the kept tokens that the operand alone would have kept, too.
        needed: the number of tokens that the answer needs, or none if it is not known.
        recall: the share of needed tokens that is left after the last stage; none if no tokens are needed or known.
        flops: counted FLOPs of the language model's prefill with the recipe.
        flops_unpruned: counted FLOPs without the recipe.
        tower_flops: counted FLOPs of the vision encoder's blocks; none if the recipe does not prune there.
        ms: measured milliseconds of the prefill (vision encoder, selection, language model), divided by the batch size.
        selection_ms: the part of `ms` for selection.
        batch: the number of samples in the batch.
    """

    sample: str
    kind: str
    image: str
    answer: str
    correct: float
    grades: dict[str, float]
    text: int
    visual: int
    per_layer: tuple[int, ...]
    kept: tuple[tuple[int, ...], ...]
    shares: tuple[dict[str, float], ...]
    needed: int | None
    recall: float | None
    flops: int
    flops_unpruned: int
    tower_flops: int | None
    ms: float
    selection_ms: float
    batch: int


@dataclass(frozen=True)
class Cell:
    """What was run: everything that matters for a comparison of two numbers.

    Attributes:
        key: hex digits of the hash of everything that decides the rows, and of nothing else.
        model: the model's name in the study.
        model_hash: the hash of its config and weights.
        adapter: the adapter's name.
        method: the recipe's name in the study. For a control: its role, and where it cuts if not at `decoder.0`.
        role: `method`, or the kind of control: `unpruned`, `random`, `uniform`, `pool`, `downsampled`, `inverted`,
            `text_only`, `oracle`, `anti_oracle`.
        of: the method that a control belongs to (only for inverted scores), or none.
        keep: the budget as the study wrote it, or none (unpruned, text only).
        seed: the seed, if the method draws at random.
        recipe: the recipe as plain data, or none.
        recipe_hash: its hash, or none.
        task: the task's name in the study.
        card: the task's card.
        card_hash: its hash.
        grid: rows and columns of the visual tokens, if every image has the same single grid.
        versions: the hash of the code, and the versions of torch, transformers and Python.
        notes: notes of the ledger, such as fallbacks and how relevance was judged.
        shape: the hash of where the recipe cuts and to how many tokens. A method is compared with controls of the same
            shape. None for the unpruned model and without an image.
    """

    key: str
    model: str
    model_hash: str
    adapter: str
    method: str
    role: str
    of: str | None
    keep: str | None
    seed: int | None
    recipe: dict[str, Any] | None
    recipe_hash: str | None
    task: str
    card: dict[str, Any]
    card_hash: str
    grid: tuple[int, int] | None
    versions: dict[str, str]
    notes: tuple[str, ...] = field(default=())
    shape: str | None = None


@dataclass(frozen=True)
class Failure:
    """A cell that did not finish.

    Attributes:
        cell: the cell.
        reason: one paragraph: the error, and what raised it.
        trace: the traceback.
    """

    cell: Cell
    reason: str
    trace: str
