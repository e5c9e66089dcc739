"""Laws on what a strategy reads and changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from tokensieve.algebra.chain import Chain
from tokensieve.composers.expression import Expression, Reading
from tokensieve.composers.selection import select
from tokensieve.errors import MissingEvidenceError
from tokensieve.evidence import PER_TOKEN, Evidence, Tokens
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe
from tokensieve.strategy import Merger, Strategy
from tokensieve.testing import laws
from tokensieve.testing.checks import cured_by, note_input, require
from tokensieve.testing.samples import (
    changed,
    parts,
    pool,
    sample,
    with_parts,
)
from tokensieve.testing.strategies.trials import (
    chosen,
    merged,
    partial_budgets,
    require_unchanged,
)


@cured_by(
    "write into nothing that you were given: `x.clamp(min=0)`, not `x.clamp_(min=0)`; `x = x + 1`, not `x += 1`",
    raised=True,
)
def pure(strategy: Strategy) -> None:
    """Choosing tokens changes neither the evidence, nor the strategy, nor the state of torch's random generator."""
    tokens = sample([9, 5], seed=4)
    # A new instance: whatever it could remember, it has not seen these tokens yet.
    strategy = type(strategy)(**strategy.model_dump())
    untouched, settings, inside = changed(tokens, Tensor.clone), strategy.model_dump(), dict(vars(strategy))
    state = torch.get_rng_state()

    def spied(leaf: Expression, reading: Reading, depth: int) -> Chain:
        # The strategy gets a copy, which other strategies share.
        before = changed(reading.tokens, Tensor.clone)
        chain = leaf.read(reading, depth)
        require_unchanged(reading.tokens, before)
        return chain

    for k in (2, 6):
        select(strategy, tokens, torch.full_like(tokens.universe.counts, k), source=spied)
    if isinstance(strategy, Merger):
        merged(strategy, tokens, 3)
    require_unchanged(tokens, untouched)
    require(
        strategy.model_dump() == settings and vars(strategy) == inside,
        "judging changed the strategy itself",
        "keep results in local variables: a strategy is a value, and every run shares it",
    )
    require(
        torch.equal(torch.get_rng_state(), state),
        "judging drew from torch's own generator",
        "draw from `tokensieve.algebra.universe.draw(seed, tokens.keys, tokens.ids)`, or give torch a `generator=` of "
        "your own",
    )


@cured_by("add to `needs` whatever you look at: `frozenset({Evidence.FEATURES, Evidence.SIZES})`")
def declared_evidence_suffices(strategy: Strategy) -> None:
    """A strategy reads only the evidence that `needs` declares."""
    for what, tokens in pool():
        with note_input(what):
            for k in partial_budgets(tokens):
                try:
                    alone = chosen(strategy, tokens.only(strategy.needs), k)
                except MissingEvidenceError as error:
                    raise AssertionError(f"more is looked at than `needs` declares: {error}") from error
                laws.same_choice(tokens, chosen(strategy, tokens, k), alone, "hiding what `needs` does not declare")


@cured_by(
    "leave NaN in the scores, without `nan_to_num` and comparisons: the chain then raises; a ranker or chooser "
    "raises `ScoreError` itself"
)
def no_nan(strategy: Strategy) -> None:
    """NaN in the evidence of a token raises an error or is not read; it never silently changes the choice."""
    tokens = sample([4, 2], seed=6)
    clean = {k: chosen(strategy, tokens, k) for k in (1, 3)}
    for what, spoilt in _with_nan(tokens, strategy.needs):
        for k, mask in clean.items():
            found = _chosen_or_raised(strategy, spoilt, k)
            require(found is None or torch.equal(found, mask), f"NaN in {what} raises nothing, but changes the choice")


@cured_by(
    "make every setting a field of a type that JSON holds (numbers, texts, tuples of these), serialised as it is",
    raised=True,
)
def round_trip(strategy: Strategy) -> None:
    """A strategy that is dumped and loaded is equal to itself; so is a recipe of it, as YAML."""
    cls = type(strategy)
    for what, again in (
        ("its fields", cls(**strategy.model_dump())),
        ("JSON", cls.model_validate_json(strategy.model_dump_json())),
    ):
        require(again == strategy and hash(again) == hash(strategy), f"from {what} comes {again!r}, not {strategy!r}")
    registry = Registry()
    registry.add_strategy(cls)
    recipe = Recipe.of(strategy, 3)
    read = Recipe.loads(recipe.dump(), registry)
    require(read == recipe, f"the recipe\n{recipe.dump()}reads as\n{read.dump()}")


def _chosen_or_raised(strategy: Strategy, tokens: Tokens, k: int) -> Tensor | None:
    try:
        return chosen(strategy, tokens, k)
    # Any error will do: it is not silent.
    except Exception:
        return None


def _with_nan(tokens: Tokens, kinds: Iterable[Evidence]) -> Iterator[tuple[str, Tokens]]:
    """Return copies with NaN in the evidence of one token or text: in its whole vector, and in one number of it."""
    for kind in sorted(kinds):
        value = tokens.evidence[kind]
        for name, part in parts(value):
            there = tokens.valid if isinstance(value, Tensor) or name in PER_TOKEN else value.mask
            for row, place in there.nonzero().tolist():
                for where in [(row, place)] + ([(row, place, 0)] if part.ndim > 2 else []):
                    bad = part.clone()
                    bad[where] = torch.nan
                    evidence = {**tokens.evidence, kind: with_parts(value, {name: bad})}
                    yield f"{kind} {name}".rstrip(), replace(tokens, evidence=evidence)
