"""How far two methods keep the same tokens."""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set

import numpy as np

from tokensieve.errors import StudyError

Kept = Sequence[Collection[int]]
"""Of each sample, the ids of the tokens that a method kept."""


def jaccard_of(one: Set[int], other: Set[int]) -> float:
    """Return the part of what either set holds that both hold; 1 for two empty sets."""
    either = one | other
    return len(one & other) / len(either) if either else 1.0


def jaccard(first: Kept, second: Kept) -> float:
    """Return the part of the tokens kept by either method that both kept, averaged over samples.

    Where neither kept anything they agree, which counts as one.

    Raises:
        StudyError: if both are not of the same samples, or there are none.
    """
    if len(first) != len(second) or not len(first):
        raise StudyError(
            f"overlap is of the same samples, at least one; {len(first)} and {len(second)} kept sets were given."
        )
    return float(np.mean([jaccard_of(set(one), set(other)) for one, other in zip(first, second, strict=True)]))


def overlaps(kept: Sequence[Kept]) -> tuple[tuple[float, ...], ...]:
    """Return the overlap of every method with every other: `[methods][methods]`.

    Raises:
        StudyError: if the methods are not of the same samples, or there are none.
    """
    found = [[1.0] * len(kept) for _ in kept]
    for one, first in enumerate(kept):
        for other in range(one):
            found[one][other] = found[other][one] = jaccard(first, kept[other])
    return tuple(tuple(row) for row in found)


def chance_jaccard(tokens: int, first: int, second: int) -> float:
    """Return the overlap to expect of two sets of given sizes that have nothing to do with each other.

    Without it an overlap means nothing: two random halves of the tokens overlap by a third.

    Args:
        tokens: how many there are to keep.
        first: how many of them one method keeps.
        second: how many the other keeps.

    Raises:
        StudyError: if more are kept than there are.
    """
    from scipy.stats import hypergeom

    if not (0 <= first <= tokens and 0 <= second <= tokens):
        raise StudyError(f"of {tokens} tokens, {first} and {second} cannot be kept.")
    if first + second == 0:
        return 1.0
    shared = np.arange(max(0, first + second - tokens), min(first, second) + 1)
    return float((hypergeom.pmf(shared, tokens, first, second) * shared / (first + second - shared)).sum())
