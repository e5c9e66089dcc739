"""Records of a pruned run: what each stage kept of each sample, in plain data classes.

The engine fills them in; `Run` presents and saves them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tokensieve.cost.vision import Stretches
from tokensieve.ledger.places import Places
from tokensieve.ledger.seen import Seen

KEPT_FORMAT = "tokensieve.kept/2"
"""The format of the files that `run.save` writes and `replay` reads."""


def checksum_of_kept(content: Mapping[str, Any]) -> str:
    """Return the checksum of the content of such a file, without the checksum that stands in it."""
    rest = {name: value for name, value in content.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class SampleRecord:
    """What a stage kept of one sample.

    Attributes:
        entered: the number of visual tokens that entered the stage.
        kept: int64 `[kept]`, the sorted ids of the kept tokens.
        shares: by operand, the fraction of the kept tokens that are among the operand's own best; operands that ranked
            other tokens are missing.
        depth: the deepest place read of any order, the largest over groups.
        judged: how many of those that entered were judged: all, or all but newline tokens; None if it was not counted.
    """

    entered: int
    kept: Tensor
    shares: dict[str, float]
    depth: int
    judged: int | None = None


@dataclass(frozen=True)
class SharedBudget:
    """How groups shared a budget that is a mean.

    Attributes:
        keep: the mean, as written.
        over: the groups of what met it together, `batch`, `sample` or `task`.
        demand: what said how much each group needs.
        sizes: by sample, how many tokens each of its groups had.
        budgets: by sample, how many tokens each of its groups kept.
        demands: by sample, what each of its groups needs.
    """

    keep: str
    over: str
    demand: str
    sizes: tuple[tuple[int, ...], ...]
    budgets: tuple[tuple[int, ...], ...]
    demands: tuple[tuple[float, ...], ...]

    @property
    def total(self) -> int:
        """How many tokens all groups kept together; over a sample or a batch what they would keep each by itself."""
        return sum(map(sum, self.budgets))

    @property
    def groups(self) -> int:
        """How many groups there were."""
        return sum(map(len, self.budgets))

    @property
    def rule(self) -> str:
        """How the budget is met, in words that are the same for every batch."""
        over = "all samples of the task" if self.over == "task" else f"each {self.over}"
        return f"keep {self.keep} is met over {over}, shared by '{self.demand}'"

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data for JSON."""
        return {
            "keep": self.keep,
            "over": self.over,
            "demand": self.demand,
            "total": self.total,
            "groups": self.groups,
            "samples": [
                {"sizes": list(sizes), "budgets": list(budgets), "demands": list(demands)}
                for sizes, budgets, demands in zip(self.sizes, self.budgets, self.demands, strict=True)
            ],
        }


class StageRecord:
    """What a stage kept of a batch. It is fetched from the device when it is first read, so that no prefill waits.

    Attributes:
        site: the site of the stage.
        formula: the formula that selected the tokens.
        keep: the budget, as written.
        notes: fallbacks that were used, and other remarks.
        shared: how groups shared the budget, where it is a mean; else none.
    """

    def __init__(
        self,
        site: str,
        formula: str,
        keep: str,
        samples: tuple[SampleRecord, ...] | Callable[[], tuple[SampleRecord, ...]],
        ms: float | Callable[[], float],
        notes: tuple[str, ...] = (),
        shared: SharedBudget | None = None,
    ) -> None:
        self.site = site
        self.formula = formula
        self.keep = keep
        self.notes = notes
        self.shared = shared
        self._samples = samples
        self._ms = ms

    @property
    def samples(self) -> tuple[SampleRecord, ...]:
        """One record for each input row, also for rows without visual tokens."""
        if callable(self._samples):
            self._samples = self._samples()
        return self._samples

    @property
    def ms(self) -> float:
        """Milliseconds spent on selection, for the whole batch."""
        if callable(self._ms):
            self._ms = self._ms()
        return self._ms

    def fetch(self) -> None:
        """Read everything now, so that nothing is held on the device."""
        _ = self.samples, self.ms


@dataclass(eq=False)
class Prefill:
    """The record of one prefill, for a batch of prompts.

    Attributes:
        keys: the key of each sample.
        text: the number of text tokens of each sample.
        visual: the number of visual tokens of each sample before any stage.
        entering: the number of visual tokens of each sample that enter the language model; smaller than `visual` if
            stages inside the vision encoder removed some from the prompt.
        pictures: how many images of each sample a vision encoder with stages encoded; tiles count.
        patches: the number of patches of each of these images.
        stretches: by sample, its patches in the vision tower, and those that a stage before it left to encode; empty
            without such a stage.
        stages: the record of each stage, in order.
        questions: the question of each sample, if a strategy read it.
        notes: remarks, for example on how relevance was measured.
        places: where the places of the prompts stand in the outputs; None until the language model has answered.
        seen: where the visual tokens were in their pictures; None for prompts without any.
    """

    keys: list[int]
    text: list[int]
    visual: list[int]
    entering: list[int]
    pictures: list[int] = field(default_factory=list)
    patches: int = 0
    stretches: list[tuple[Stretches, Stretches]] = field(default_factory=list)
    stages: list[StageRecord] = field(default_factory=list)
    questions: list[str] | None = None
    notes: list[str] = field(default_factory=list)
    places: Places | None = None
    seen: Seen | None = None

    def fetch(self) -> None:
        """Read everything now, so that nothing is held on the device."""
        for stage in self.stages:
            stage.fetch()
        if self.places is not None:
            _ = self.places.request


def mask_to_ids(mask: Tensor) -> Tensor:
    """Return the indices of a mask `[tokens]` that are True, sorted, int64 `[kept]` on the CPU."""
    return torch.nonzero(mask).flatten().cpu()
