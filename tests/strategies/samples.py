"""Tokens with all evidence, of kinds that are hard for a strategy."""

import torch

from tokensieve import Evidence, Query, Text, Tokens, Universe, Words

KINDS = ("normal", "integers", "duplicates", "low rank", "equal", "zeros")


def vectors(kind, shape, generator):
    """Vectors `[..., n, d]`."""
    *outer, n, d = shape
    if kind == "normal":
        return torch.randn(shape, generator=generator)
    if kind == "integers":
        return torch.randint(-2, 3, shape, generator=generator).float()
    if kind == "duplicates":
        few = torch.randn((*outer, 3, d), generator=generator)
        which = torch.randint(0, 3, (*outer, n), generator=generator)
        return few.gather(-2, which.unsqueeze(-1).expand(shape))
    if kind == "low rank":
        return torch.randn((*outer, n, 2), generator=generator) @ torch.randn((*outer, 2, d), generator=generator)
    if kind == "equal":
        return torch.ones(shape)
    return torch.randn(shape, generator=generator) * (torch.rand((*outer, n, 1), generator=generator) < 0.5)


def attention(kind, shape, generator):
    """Attention `[..., n, heads]`: equal, or with many ties, where the kind of vectors is."""
    if kind == "equal":
        return torch.full(shape, 0.25)
    if kind in ("integers", "duplicates"):
        return torch.randint(0, 3, shape, generator=generator) / 8
    return torch.rand(shape, generator=generator)


def sample(counts, kind="normal", seed=0, d=6, text=(2,), sign=1, width=4):
    """Canonical tokens: `counts` per row, with every kind of evidence.

    Row r has `text[r % len(text)]` texts.
    """
    g = torch.Generator().manual_seed(seed)
    rows, n = len(counts), max(counts, default=0)
    universe = Universe.of_counts(list(counts))
    # Ids with gaps, ascending.
    ids = universe.ids * 3 + torch.arange(rows).unsqueeze(1)
    lengths = torch.tensor([text[row % len(text)] for row in range(rows)]).reshape(-1, 1)
    m = max(text)
    place = torch.arange(n).expand(rows, n)
    flat = torch.zeros_like(place)
    evidence = {
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
            torch.arange(m) < lengths,
            "test",
            sign,
        ),
        Evidence.TEXT_FEATURES: Text(vectors(kind, (rows, m, d), g), torch.arange(m) < lengths),
        Evidence.DECODER_WORDS: Words(
            torch.randint(0, 4, (rows, n, m), generator=g).float(),
            vectors(kind, (rows, m, 4), g),
            vectors(kind, (rows, m, d), g),
            vectors(kind, (rows, m, d), g),
            vectors(kind, (rows, n, d), g),
            torch.arange(m) < lengths,
        ),
        Evidence.GRID: torch.stack([flat, flat, flat, place // width, place % width], dim=-1),
        Evidence.SIZES: torch.randint(1, 4, (rows, n), generator=g).float(),
    }
    keys = torch.arange(rows) * 11 + 5
    return Tokens(Universe(universe.valid, ids), evidence, keys, torch.arange(rows))


def row(tokens, number):
    """One row alone, without padding."""
    n = int(tokens.universe.counts[number])
    places = torch.arange(n).unsqueeze(0)
    return tokens.take(places, torch.ones(1, n, dtype=torch.bool), torch.tensor([number]))


def scrambled(tokens, extra, seed):
    """The same tokens anywhere in memory, `extra` empty places among them, and what place each went to."""
    g = torch.Generator().manual_seed(seed)
    rows, n = tokens.valid.shape
    if not n:
        return tokens, tokens.ids
    source = torch.cat([torch.arange(n), torch.zeros(extra, dtype=torch.int64)])
    order = torch.stack([torch.randperm(n + extra, generator=g) for _ in range(rows)])
    valid = torch.stack([(torch.arange(n + extra) < n)[o] for o in order])
    moved = tokens.take(source[order], valid)
    poisoned = {
        kind: value.masked_fill(~moved.valid.reshape(rows, -1, *[1] * (value.ndim - 2)), float("nan"))
        if isinstance(value, torch.Tensor) and value.is_floating_point()
        else value
        for kind, value in moved.evidence.items()
    }
    return Tokens(moved.universe, poisoned, moved.keys, moved.samples), order.argsort(dim=1)[:, :n]
