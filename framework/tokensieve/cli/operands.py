"""Which tokens each operand of a formula would have kept by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import PrivateAttr

from tokensieve.algebra.chain import Chain
from tokensieve.checkpoints.asking import pruned
from tokensieve.checkpoints.ready import LoadedModel
from tokensieve.composers.expression import Composer, Expression, Reading
from tokensieve.ledger.run import Run
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe
from tokensieve.strategy import Strategy


class Watched(Composer):
    """An expression that is read unchanged, and remembers from which tokens."""

    _readings: list[Reading] = PrivateAttr(default_factory=list)

    name = "watched"
    arity = (1, 1)

    @property
    def readings(self) -> list[Reading]:
        """Every reading, the latest last."""
        return self._readings

    def read(self, reading: Reading, depth: int) -> Chain:
        """Read the expression inside."""
        self._readings.append(reading)
        return reading.of(self.operands[0], depth)

    def written(self, name: Callable[[Expression], str]) -> str:
        """Return the formula inside."""
        return self.operands[0].written(name)


@dataclass(frozen=True)
class StageView:
    """What a stage kept of a prompt's one picture, and what each operand would have kept.

    Attributes:
        recipe: the recipe's name.
        site: where.
        formula: what selected.
        keep: the budget, as written.
        entered: tokens entering the stage.
        kept: ids of those that stay.
        own: by operand, ids of its own best, as many as stay.
        depth: the deepest place that was read.
    """

    recipe: str
    site: str
    formula: str
    keep: str
    entered: int
    kept: frozenset[int]
    own: Mapping[str, frozenset[int]]
    depth: int

    def owners(self, token: int) -> tuple[str, ...]:
        """Return the operands that have a token among their own best."""
        return tuple(name for name, ids in self.own.items() if token in ids)


@torch.no_grad()
def watch(
    ready: LoadedModel, recipe: Recipe, inputs: Mapping[str, Any], query_encoder: Path | None, registry: Registry
) -> tuple[Run, list[StageView]]:
    """Run a prompt once, and give the ledger and what every stage saw.

    Operands are cut from the very evidence that the stage selected by, each alone and to as many
    tokens as the stage kept in the group.
    """
    # A strategy that stands alone is its own only operand, and may also say how the rest is merged.
    stages = tuple(
        stage if isinstance(stage.select, Strategy) else stage.model_copy(update={"select": Watched.of(stage.select)})
        for stage in recipe.stages
    )
    watched = recipe.replace(stages=stages)
    with pruned(ready, watched, query_encoder, registry) as run:
        for stage in stages:
            if isinstance(stage.select, Watched):
                # The review that stands before a prune has read random tokens.
                stage.select.readings.clear()
        ready.prefill(inputs)
    names = recipe.names()
    seen = []
    for stage, record in zip(stages, run.latest.stages, strict=True):
        sample = record.samples[0]
        kept = frozenset(sample.kept.tolist())
        own = _own(stage.select, kept, names) if isinstance(stage.select, Watched) else {names[stage.select]: kept}
        seen.append(
            StageView(recipe.name, record.site, record.formula, record.keep, sample.entered, kept, own, sample.depth)
        )
    return run, seen


def _own(watched: Watched, kept: frozenset[int], names: Mapping[Expression, str]) -> dict[str, frozenset[int]]:
    """Cut every operand alone, from the latest reading."""
    reading = watched.readings[-1]
    ids = reading.tokens.ids
    stays = torch.isin(ids, torch.tensor(sorted(kept), device=ids.device)) & reading.tokens.valid
    k = stays.sum(dim=1)
    own = {}
    for leaf in watched.strategies():
        best = reading.settled(leaf, k).cut(k)
        own[names[leaf]] = frozenset(ids[best].tolist())
    return own
