"""Tokens with every kind of evidence, drawn from a seed, among them inputs that are hard for a strategy.

This module needs torch only. The tokens are in canonical form. The values at invalid places are drawn too: they are
meaningless, and not zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tokensieve.algebra.universe import Universe
from tokensieve.evidence import ATTENTION, PER_TOKEN, Evidence, PromptHeads, PromptText, Query, Text, Tokens, Value

KINDS = ("normal", "integers", "duplicates", "low rank", "equal", "zeros")
"""The kinds of vectors."""
HUGE = 1e18
"""Its square is just within the range of float32."""


def vectors(kind: str, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Return random vectors `[..., n, d]` of one of `KINDS`, or of `rank 1`."""
    *outer, n, d = shape
    if kind == "normal":
        return torch.randn(tuple(shape), generator=generator)
    if kind == "integers":
        return torch.randint(-2, 3, tuple(shape), generator=generator).float()
    if kind == "duplicates":
        few = torch.randn((*outer, 3, d), generator=generator)
        which = torch.randint(0, 3, (*outer, n), generator=generator)
        return few.gather(-2, which.unsqueeze(-1).expand(tuple(shape)))
    if kind in ("low rank", "rank 1"):
        rank = 2 if kind == "low rank" else 1
        left = torch.randn((*outer, n, rank), generator=generator)
        return left @ torch.randn((*outer, rank, d), generator=generator)
    if kind == "equal":
        return torch.ones(tuple(shape))
    if kind == "zeros":
        return torch.randn(tuple(shape), generator=generator) * (torch.rand((*outer, n, 1), generator=generator) < 0.5)
    raise ValueError(f"no kind of vectors is named '{kind}'; there are {', '.join(KINDS)} and rank 1")


def attention(kind: str, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Return random attention `[..., n, heads]`: equal or with many ties, if vectors of that kind are."""
    if kind == "equal":
        return torch.full(tuple(shape), 0.25)
    if kind in ("integers", "duplicates"):
        return torch.randint(0, 3, tuple(shape), generator=generator) / 8
    return torch.rand(tuple(shape), generator=generator)


def sample(
    counts: Sequence[int],
    kind: str = "normal",
    seed: int = 0,
    d: int = 6,
    text: Sequence[int] = (2,),
    sign: int = 1,
    width: int = 4,
) -> Tokens:
    """Return random groups of tokens with every kind of evidence.

    Args:
        counts: how many tokens each row has.
        kind: the kind of vectors, one of `KINDS` or `rank 1`.
        seed: of the random generator.
        d: the number of features.
        text: row r has `text[r % len(text)]` texts.
        sign: of the query's relevance.
        width: how many tokens a row of the grid has.
    """
    g = torch.Generator().manual_seed(seed)
    rows, n = len(counts), max(counts, default=0)
    universe = Universe.of_counts(list(counts))
    # Ids with gaps, ascending.
    ids = universe.ids * 3 + torch.arange(rows).unsqueeze(1)
    m = max(text)
    mask = torch.arange(m) < torch.tensor([text[row % len(text)] for row in range(rows)]).reshape(-1, 1)
    place = torch.arange(n).expand(rows, n)
    flat = torch.zeros_like(place)
    evidence: dict[Evidence, Value] = {
        Evidence.FEATURES: vectors(kind, (rows, n, d), g),
        Evidence.VISION_KEYS: vectors(kind, (rows, n, 4), g),
        Evidence.VISION_ATTENTION: attention(kind, (rows, n, 3), g),
        Evidence.VISION_RECEIVED: attention(kind, (rows, n, 3), g),
        Evidence.VISION_MIDDLE: attention(kind, (rows, n, 3), g),
        Evidence.VISION_FEATURES: vectors(kind, (rows, n, 5), g),
        Evidence.DECODER_ATTENTION: torch.randint(0, 4, (rows, n, 2), generator=g).float(),
        Evidence.DECODER_CONTENT: attention(kind, (rows, n, 2), g),
        Evidence.DECODER_KEYS: vectors(kind, (rows, n, 4), g),
        Evidence.QUERY: Query(
            vectors(kind, (rows, n, 5), g),
            torch.randint(-2, 3, (rows, m, 5), generator=g).float(),
            mask,
            "test",
            sign,
        ),
        Evidence.TEXT_FEATURES: Text(vectors(kind, (rows, m, d), g), mask),
        Evidence.DECODER_TEXT: PromptText(
            torch.randint(0, 4, (rows, n, m), generator=g).float(),
            vectors(kind, (rows, m, 4), g),
            vectors(kind, (rows, m, d), g),
            vectors(kind, (rows, m, d), g),
            vectors(kind, (rows, n, d), g),
            mask,
            # The first text token stands before the last visual one.
            mask & (torch.arange(m) > 0),
        ),
        Evidence.GRID: torch.stack([flat, flat, flat, place // width, place % width], dim=-1),
        Evidence.SIZES: torch.randint(1, 4, (rows, n), generator=g).float(),
    }
    evidence[Evidence.DECODER_TEXT_HEADS] = PromptHeads(
        torch.randint(0, 4, (rows, n, m, 3), generator=g).float(),
        torch.randint(1, 5, (rows, n, m), generator=g).float(),
        mask,
    )
    keys = torch.arange(rows) * 11 + 5
    return Tokens(Universe(universe.valid, ids), evidence, keys, torch.arange(rows))


def pool() -> Iterator[tuple[str, Tokens]]:
    """Return three small samples of every kind, each with a description; the first ones are the smallest."""
    shapes = ((3,), (5, 2), (9, 0, 4))
    texts = ((2,), (1, 0, 3), (0,))
    for size, counts in enumerate(shapes):
        for number, kind in enumerate(KINDS):
            seed, text = len(KINDS) * size + number, texts[(size + number) % len(texts)]
            yield f"sample({list(counts)}, {kind!r}, {seed}, text={text})", sample(counts, kind, seed, text=text)


def hard() -> Iterator[tuple[str, Tokens]]:
    """Return the inputs on which published code is known to fail, each with a description."""
    yield "identical rows", sample([9, 4], "equal")
    yield "indistinguishable tokens", alike(9)
    yield "copies of three tokens", sample([11, 6], "duplicates")
    yield "zero rows", changed(sample([7, 3]), lambda value: value * 0)
    yield "vectors of rank 1", sample([9, 5], "rank 1")
    yield "more tokens than columns", sample([30, 17], d=2)
    yield "one image of many without tokens", sample([6, 0, 9, 3])
    yield "no image with tokens", sample([0, 0])
    yield "bfloat16", changed(sample([9, 5]), Tensor.bfloat16)
    yield "huge vectors in float32", scaled(sample([9, 5]), HUGE)
    yield "no text", sample([9, 5], text=(0,))
    yield "text in one row of three", sample([6, 7, 5], text=(0, 3, 0))


def alike(n: int) -> Tokens:
    """Return a group of tokens with equal evidence of every kind, positions in the grid included."""
    tokens = sample([n], "equal")
    same = tokens.take(torch.zeros(1, n, dtype=torch.int64), torch.ones(1, n, dtype=torch.bool))
    return replace(same, universe=tokens.universe)


def row(tokens: Tokens, number: int) -> Tokens:
    """Return one row alone, without padding."""
    n = int(tokens.universe.counts[number])
    places = torch.arange(n).unsqueeze(0)
    return tokens.take(places, torch.ones(1, n, dtype=torch.bool), torch.tensor([number]))


def scrambled(tokens: Tokens, extra: int, seed: int) -> tuple[Tokens, Tensor]:
    """Return the same tokens in a random memory order, with NaN at invalid places, and the new place of each.

    Args:
        tokens: the groups.
        extra: how many empty places are put between the tokens of each row.
        seed: of the random order.

    Returns:
        The tokens, and their new places, int64 `[rows, n]`.
    """
    g = torch.Generator().manual_seed(seed)
    rows, n = tokens.valid.shape
    if not n:
        return tokens, tokens.ids
    source = torch.cat([torch.arange(n), torch.zeros(extra, dtype=torch.int64)])
    order = torch.stack([torch.randperm(n + extra, generator=g) for _ in range(rows)])
    valid = torch.stack([(torch.arange(n + extra) < n)[o] for o in order])
    moved = tokens.take(source[order], valid)
    gone = ~moved.valid

    def poisoned(value: Tensor) -> Tensor:
        return value.masked_fill(gone.reshape(*gone.shape, *[1] * (value.ndim - 2)), torch.nan)

    evidence: dict[Evidence, Value] = {}
    for kind, value in moved.evidence.items():
        own = ((name, part) for name, part in parts(value) if not name or name in PER_TOKEN)
        evidence[kind] = with_parts(value, {name: poisoned(part) for name, part in own})
    went = torch.empty_like(order).scatter_(1, order, torch.arange(n + extra).expand_as(order))
    return replace(moved, evidence=evidence), went[:, :n]


def changed(tokens: Tokens, change: Callable[[Tensor], Tensor]) -> Tokens:
    """Return the tokens with `change` applied to every floating-point tensor of their evidence."""
    evidence = {
        kind: with_parts(value, {name: change(part) for name, part in parts(value)})
        for kind, value in tokens.evidence.items()
    }
    return replace(tokens, evidence=evidence)


def scaled(tokens: Tokens, factor: float) -> Tokens:
    """Return the tokens with all vectors multiplied by a factor; attention, positions and sizes stay."""
    evidence = {
        kind: value
        if kind in ATTENTION or kind is Evidence.SIZES
        else with_parts(value, {n: t * factor for n, t in parts(value) if n not in ("attention", "bias")})
        for kind, value in tokens.evidence.items()
    }
    return replace(tokens, evidence=evidence)


def parts(value: Value) -> Iterator[tuple[str, Tensor]]:
    """Return the floating-point tensors of a piece of evidence by name; evidence that is a tensor has an empty name."""
    named = [("", value)] if isinstance(value, Tensor) else vars(value).items()
    yield from ((name, part) for name, part in named if isinstance(part, Tensor) and part.is_floating_point())


def with_parts(value: Value, new: dict[str, Any]) -> Value:
    """Return a piece of evidence with other tensors, by the names of `parts`."""
    return new.get("", value) if isinstance(value, Tensor) else replace(value, **new)
