"""Plain records of what stages did."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

KEPT_FORMAT = "tokensieve.kept/1"


@dataclass(frozen=True, eq=False)
class SampleRecord:
    """What a stage did to one sample.

    Attributes:
        entered: visual tokens entering the stage.
        kept: int64 `[kept]`, ids of those that stayed, sorted.
        shares: by operand, the part of the kept tokens that it had among its own best; operands
            that judged other tokens are missing.
        depth: the deepest place read in any group.
    """

    entered: int
    kept: Tensor
    shares: dict[str, float]
    depth: int


@dataclass(frozen=True, eq=False)
class StageRecord:
    """What a stage did to a batch.

    Attributes:
        site: where.
        formula: what selected.
        keep: the budget, as written.
        samples: one record per input row, empty rows too.
        ms: milliseconds spent selecting, for the whole batch.
        notes: fallbacks used, and what else is worth knowing.
    """

    site: str
    formula: str
    keep: str
    samples: tuple[SampleRecord, ...]
    ms: float
    notes: tuple[str, ...] = ()


@dataclass(eq=False)
class Prefill:
    """One prompt batch.

    Attributes:
        keys: sample keys.
        text: text tokens of each sample.
        visual: visual tokens of each sample before any stage.
        entering: visual tokens of each sample that reach the language model: fewer where some left in the vision
            encoder, with which they leave the prompt.
        pictures: how many pictures of each sample a vision encoder with stages took; tiles count.
        patches: of each of them.
        stages: what each stage did, in order.
        questions: what query-aware strategies read, where they did.
        notes: how relevance was judged, and the like.
    """

    keys: list[int]
    text: list[int]
    visual: list[int]
    entering: list[int]
    pictures: list[int] = field(default_factory=list)
    patches: int = 0
    stages: list[StageRecord] = field(default_factory=list)
    questions: list[str] | None = None
    notes: list[str] = field(default_factory=list)


def as_ids(mask: Tensor) -> Tensor:
    """Return the sorted ids `[kept]` on the CPU of a mask `[tokens]`."""
    return torch.nonzero(mask).flatten().cpu()
