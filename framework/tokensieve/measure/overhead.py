"""What pruning adds to one prefill and to one decode step, in operators, waits and bytes: no clock is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from tokensieve.checkpoints.loaded_model import quiet
from tokensieve.engine import prune
from tokensieve.engine.cache import returned_cache
from tokensieve.measure.operators import Counts, count_operators
from tokensieve.measure.timing import decode, prefill
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Overhead:
    """What ran in a prefill and in a decode step.

    Attributes:
        name: the recipe's, or `unpruned`.
        prefill: of one prompt.
        step: of one further token.
    """

    name: str
    prefill: Counts
    step: Counts

    def over(self, other: Overhead) -> tuple[Added, Added]:
        """Return what this has more than another, in the prefill and in a step."""
        return Added.of(self.prefill, other.prefill), Added.of(self.step, other.step)


@dataclass(frozen=True, eq=False)
class Added:
    """How many more there are of one than of the other.

    Attributes:
        operators: operators.
        synchronisations: waits of the host.
        bytes_allocated: bytes of new tensors.
        waits: the waits by what the host waited in.
    """

    operators: int
    synchronisations: int
    bytes_allocated: int
    waits: Mapping[str, int]

    @classmethod
    def of(cls, one: Counts, other: Counts) -> Added:
        """Return the differences of two counts."""
        waits = Counter(one.waits)
        waits.subtract(other.waits)
        return cls(
            one.operators - other.operators,
            one.synchronisations - other.synchronisations,
            one.bytes_allocated - other.bytes_allocated,
            {name: n for name, n in sorted(waits.items()) if n},
        )


@torch.no_grad()
def count_overhead(
    model: Any, request: Mapping[str, Any], recipe: Recipe | None, registry: Registry | None = None
) -> Overhead:
    """Count a prefill and a decode step after a first call, which remembers what later ones share.

    Args:
        model: the model.
        request: the arguments of forward.
        recipe: what prunes it, or None.
        registry: where names are looked up.
    """
    with quiet(), nullcontext() if recipe is None else prune(model, recipe, registry=registry):
        decode(model, request, returned_cache(prefill(model, request)), 1)
        with count_operators() as first:
            output = prefill(model, request)
        cache = returned_cache(output)
        # A cache grows at its first step, as at any other.
        decode(model, request, cache, 1)
        with count_operators() as step:
            decode(model, request, cache, 1)
    return Overhead("unpruned" if recipe is None else recipe.name, first, step)
