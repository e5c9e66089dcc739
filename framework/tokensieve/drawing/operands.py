"""Which tokens each operand of a formula would have kept alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import PrivateAttr

from tokensieve.algebra.chain import Chain
from tokensieve.checkpoints.asking import pruned
from tokensieve.checkpoints.loaded_model import LoadedModel
from tokensieve.composers.expression import Composer, Expression, Reading
from tokensieve.ledger.run import Run
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe
from tokensieve.strategy import Strategy


class Watched(Composer):
    """Reads the expression inside unchanged, and remembers every reading."""

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
    """Which tokens of a prompt's one picture a stage kept, and which each operand would have kept alone.

    Attributes:
        recipe: the recipe's name.
        site: of the stage, such as `decoder.0`.
        formula: of the stage.
        keep: the budget, as written.
        entered: how many tokens entered the stage.
        kept: ids of the kept tokens.
        own: by operand, ids of the tokens it would have kept alone, as many as `kept`.
        depth: the deepest rank that was read.
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
        """Return the operands that would have kept a token alone."""
        return tuple(name for name, ids in self.own.items() if token in ids)


@torch.no_grad()
def watch(
    ready: LoadedModel, recipe: Recipe, inputs: Mapping[str, Any], query_encoder: Any, registry: Registry
) -> tuple[Run, list[StageView]]:
    """Run a prompt once, and return the ledger and a view of every stage.

    Each operand is cut alone, from the same evidence as the stage's formula, to as many tokens as the stage kept in
    the group.
    """
    # A formula of one strategy has no other operands, and the strategy may also say how the rest is merged.
    stages = tuple(
        stage if isinstance(stage.select, Strategy) else stage.model_copy(update={"select": Watched.of(stage.select)})
        for stage in recipe.stages
    )
    watched = recipe.replace(stages=stages)
    with pruned(ready, watched, query_encoder, registry) as run:
        for stage in stages:
            if isinstance(stage.select, Watched):
                # The review before `prune` has read random tokens.
                stage.select.readings.clear()
        ready.prefill(inputs)
    names = recipe.names()
    views = []
    for stage, record in zip(stages, run.latest.stages, strict=True):
        sample = record.samples[0]
        kept = frozenset(sample.kept.tolist())
        own = _own(stage.select, kept, names) if isinstance(stage.select, Watched) else {names[stage.select]: kept}
        views.append(
            StageView(recipe.name, record.site, record.formula, record.keep, sample.entered, kept, own, sample.depth)
        )
    return run, views


def _own(watched: Watched, kept: frozenset[int], names: Mapping[Expression, str]) -> dict[str, frozenset[int]]:
    """Return the ids that each operand keeps alone, cut from the latest reading."""
    reading = watched.readings[-1]
    ids = reading.tokens.ids
    stays = torch.isin(ids, torch.tensor(sorted(kept), device=ids.device)) & reading.tokens.valid
    k = stays.sum(dim=1)
    own = {}
    for leaf in watched.strategies():
        best = reading.settled(leaf, k).cut(k)
        own[names[leaf]] = frozenset(ids[best].tolist())
    return own
