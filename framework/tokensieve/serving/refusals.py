"""What a server cannot run exactly as `prune` does: refused when it starts, with the reason."""

from __future__ import annotations

from tokensieve.errors import MissingEvidenceError, RefusedError, listing
from tokensieve.recipes.formulas import distinct_strategies
from tokensieve.recipes.recipe import Recipe
from tokensieve.serving.families import EVIDENCE, ServedFamily
from tokensieve.stage import Stage
from tokensieve.strategy import Strategy


def served_stage(recipe: Recipe, family: ServedFamily) -> Stage:
    """Return the one stage of a recipe that a server runs.

    Raises:
        RefusedError: if it cuts at another site than `decoder.0`, its counts depend on more than the grid of a picture,
            kept tokens cannot have their positions, or a strategy refuses the family.
        MissingEvidenceError: if it needs evidence that a server does not have.
    """
    who = f"recipe '{recipe.name}'"
    elsewhere = [str(stage.at) for stage in recipe.stages if str(stage.at) != "decoder.0"]
    if elsewhere:
        raise RefusedError(
            f"{who} cuts at {listing(elsewhere)}; a plugin of a server sees visual tokens between the projector and "
            "the language model alone. Serve a recipe with one stage, at decoder.0"
        )
    (stage,) = recipe.stages
    missing = stage.needs - EVIDENCE
    if missing:
        raise MissingEvidenceError(
            f"{who} reads {listing(sorted(missing))}; a server's vision tower and language model hand on "
            f"{listing(sorted(EVIDENCE))} alone. Serve a recipe that judges by these"
        )
    _refuse_open_counts(who, stage)
    if recipe.positions not in family.positions:
        raise RefusedError(
            f"{who} has positions: {recipe.positions}; in a server the tokens of a prompt of {family.name} have the "
            f"positions that follow from their number. Serve it with positions: {listing(family.positions)}, and "
            "evaluate it so"
        )
    if stage.rest == "merge" and not family.merges:
        raise RefusedError(
            f"{who} merges tokens (rest: merge); {family.name} adds features of the vision encoder inside the language "
            "model, too, which are not merged in a server. Serve a recipe that drops tokens"
        )
    for leaf in distinct_strategies([stage]):
        reason = leaf.refusal(family.name) if isinstance(leaf, Strategy) else None
        if reason is not None:
            raise RefusedError(f"{who}: {reason}")
    return stage


def _refuse_open_counts(who: str, stage: Stage) -> None:
    """Refuse a stage whose counts are not known before the model runs, of each picture by itself."""
    if stage.keep.auto:
        raise RefusedError(
            f"{who} keeps as many tokens as its formula finds (keep: auto); a server lays out a prompt before anything "
            "is computed. Give it a budget, such as keep 64 or 1/9"
        )
    if stage.keep.mean:
        raise RefusedError(
            f"{who} has keep: {stage.keep}, which pictures share by what each needs; a server lays out a prompt before "
            "anything is computed, and encodes every picture by itself. Serve it with a budget of each picture, such "
            "as keep 64 or 1/9, and without a demand"
        )
    if stage.per == "sample":
        raise RefusedError(
            f"{who} has per: sample, one budget for all pictures of a prompt; a server encodes and caches every "
            "picture by itself. Serve it with per: image"
        )
