"""What a finished cell holds: a row a sample, and what the cell was."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FORMAT = "tokensieve.cell/1"

TIMES = ("ms", "selection_ms")
"""The columns that two runs of the same cell need not agree on."""


@dataclass(frozen=True)
class Row:
    """What a method did with a sample.

    Attributes:
        sample: the sample's id.
        kind: its type of question, or empty.
        image: its picture's name.
        answer: what the model answered.
        correct: the task's metric, in [0, 1].
        grades: all grades by name, the metric among them.
        text: text tokens of the prompt.
        visual: visual tokens of the prompt, before anything left.
        per_layer: visual tokens that each decoder layer processed.
        kept: by stage of the recipe, sorted ids of what stayed; empty for the unpruned model.
        shares: by stage, by operand, the part of the kept tokens that it had among its own best.
        needed: how many tokens the answer needs, or none where that is not known.
        recall: the part of them that was still there at the last stage; none where nothing was needed or known.
        flops: counted, of the language model's prefill under the recipe.
        flops_unpruned: counted, without it.
        tower_flops: counted, of the vision encoder's blocks under the recipe; none where the recipe leaves it alone.
        ms: measured milliseconds of the prefill (tower, selection, language model): the batch's, by sample.
        selection_ms: the part of `ms` spent selecting.
        batch: how many samples were measured together.
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
    """What was run: everything that two numbers must be compared by.

    Attributes:
        key: the content hash: hex digits of everything that decides the rows, and of nothing else.
        model: the model's name in the study.
        model_hash: of its config and weights.
        adapter: the adapter's name.
        method: the recipe's name in the study, or a control's: its role, and where it cuts unless that is `decoder.0`.
        role: `method`, or what kind of control: `unpruned`, `random`, `uniform`, `pool`, `downsampled`, `inverted`,
            `text_only`, `oracle`, `anti_oracle`.
        of: the method that a control belongs to (an inverted score is some method's), or none.
        keep: the budget as the study wrote it, or none (unpruned, text only).
        seed: of the draw, where the method draws.
        recipe: the resolved recipe as plain data, or none.
        recipe_hash: its hash, or none.
        task: the task's name in the study.
        card: the task's card.
        card_hash: its hash.
        grid: rows and columns of a picture's visual tokens, where it is one grid.
        versions: of tokensieve's code, torch, transformers, python.
        notes: what the ledger noted: fallbacks, how relevance was judged.
        shape: where the recipe cuts and to how many tokens, as a hash: what a method is compared with has the same.
            None for the unpruned model and without a picture.
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
        cell: which.
        reason: one paragraph: what was raised, and by what.
        trace: the traceback.
    """

    cell: Cell
    reason: str
    trace: str
