"""The overlap of the tokens that methods keep."""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set

import numpy as np

from tokensieve.errors import StudyError

Kept = Sequence[Collection[int]]
"""The ids of the tokens that a method kept, for each sample."""


def jaccard_of(one: Set[int], other: Set[int]) -> float:
    """Return the Jaccard index of two sets: intersection over union; 1 for two empty sets."""
    either = one | other
    return len(one & other) / len(either) if either else 1.0


def jaccard(first: Kept, second: Kept) -> float:
    """Return the Jaccard index of the kept tokens of two methods, the mean over samples.

    If neither method kept a token of a sample, the index is 1.

    Raises:
        StudyError: if both do not have the same number of samples, or there are none.
    """
    if len(first) != len(second) or not len(first):
        raise StudyError(
            f"overlap is of the same samples, at least one; {len(first)} and {len(second)} kept sets were given."
        )
    return float(np.mean([jaccard_of(set(one), set(other)) for one, other in zip(first, second, strict=True)]))


def overlaps(kept: Sequence[Kept]) -> tuple[tuple[float, ...], ...]:
    """Return the overlap of every method with every other: `[methods][methods]`.

    Raises:
        StudyError: if the methods do not have the same number of samples, or there are none.
    """
    found = [[1.0] * len(kept) for _ in kept]
    for one, first in enumerate(kept):
        for other in range(one):
            found[one][other] = found[other][one] = jaccard(first, kept[other])
    return tuple(tuple(row) for row in found)


def chance_jaccard(tokens: int, first: int, second: int) -> float:
    """Return the expected Jaccard index of two independent random sets of given sizes.

    It is the baseline for any overlap: two random halves of the tokens already have an index of about a third.

    Args:
        tokens: the number of tokens.
        first: the number of tokens that one method keeps.
        second: the number of tokens that the other method keeps.

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
