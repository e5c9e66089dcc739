"""Budgets that all samples of a task share: what each needs is found out first, then every sample has its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokensieve.algebra.mean_budget import shared
from tokensieve.ledger.run import Run
from tokensieve.recipes.recipe import Recipe


@dataclass(frozen=True)
class Needs:
    """What the groups of a sample need.

    Attributes:
        sizes: how many tokens each has.
        demands: what each needs.
    """

    sizes: tuple[int, ...]
    demands: tuple[float, ...]


def meets_over_task(recipe: Recipe) -> bool:
    """Return whether the first stage of a recipe meets its budget over all samples of a task."""
    first = recipe.stages[0]
    return first.keep.mean and first.over == "task"


def asking(recipe: Recipe) -> Recipe:
    """Return the recipe with which the needs of samples are found out, batch by batch.

    Needs are found out before anything is cut, so they do not depend on the batch.
    """
    first, *others = recipe.stages
    return recipe.replace(stages=(first.model_copy(update={"over": "batch"}), *others))


def needs_of(run: Run, keys: Sequence[int]) -> dict[int, Needs]:
    """Return what the samples of the latest prefill need, by sample key; those without visual tokens need nothing."""
    found = run.latest.stages[0].shared
    if found is None:
        return dict.fromkeys(keys, Needs((), ()))
    return {key: Needs(*own) for key, own in zip(keys, zip(found.sizes, found.demands, strict=True), strict=True)}


def budgets_over_task(recipe: Recipe, needs: Mapping[int, Needs]) -> dict[int, tuple[int, ...]]:
    """Return how many tokens of each group of each sample stay, by sample key.

    Together these are what all samples of the task would keep if each group had the budget by itself. Groups that tie
    are served by sample key.
    """
    keys = sorted(needs)
    sizes = [n for key in keys for n in needs[key].sizes]
    counts = iter(shared(recipe.stages[0].keep, sizes, [one for key in keys for one in needs[key].demands]))
    return {key: tuple(next(counts) for _ in needs[key].sizes) for key in keys}
