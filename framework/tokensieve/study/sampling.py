"""Which samples of a task are asked, and the keys of their random draws."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from fractions import Fraction

from tokensieve.tasks.base import Sample


def stratified_indices(kinds: Sequence[str], count: int) -> list[int]:
    """Return at most `count` indices: of each type of question as many, evenly spaced within the type.

    Tasks ask their types in turn, so samples that are evenly spaced over the task could all be of one type.

    Args:
        kinds: the type of question of each sample.
        count: the number of indices.
    """
    by_kind: dict[str, list[int]] = {}
    for number, kind in enumerate(kinds):
        by_kind.setdefault(kind, []).append(number)
    # Take one more of each type in turn, until there are enough.
    wanted = dict.fromkeys(by_kind, 0)
    while sum(wanted.values()) < min(count, len(kinds)):
        for kind, own in by_kind.items():
            if sum(wanted.values()) < count and wanted[kind] < len(own):
                wanted[kind] += 1
    indices: list[int] = []
    for turn, (kind, own) in enumerate(by_kind.items()):
        # Every type starts at another offset, so that types have different images.
        start = turn / len(by_kind)
        indices += [own[int((number + start) * len(own) / wanted[kind])] for number in range(wanted[kind])]
    return sorted(indices)


def part_of(samples: Sequence[Sample], part: tuple[Fraction, Fraction] | None) -> Sequence[Sample]:
    """Return the samples about a part of the pictures.

    Pictures are ordered by a hash of their names, so the order says nothing of them. Parts that do not overlap, such as
    from 0 to 1/2 and from 1/2 to 1, share no picture.

    Args:
        samples: all samples of a task.
        part: both ends, of all pictures; none for all.
    """
    if part is None:
        return samples
    names = {sample.image for sample in samples}
    ordered = sorted(names, key=lambda name: (hashlib.sha256(name.encode()).digest(), name))
    low, high = (int(end * len(ordered)) for end in part)
    inside = set(ordered[low:high])
    return [sample for sample in samples if sample.image in inside]


def select_samples(
    samples: Sequence[Sample], limit: int | None, part: tuple[Fraction, Fraction] | None = None
) -> list[Sample]:
    """Return at most `limit` samples of a part of the pictures; see `stratified_indices` and `part_of`."""
    samples = part_of(samples, part)
    if limit is None or limit >= len(samples):
        return list(samples)
    return [samples[index] for index in stratified_indices([sample.kind for sample in samples], limit)]


def sample_key(sample: str) -> int:
    """Return the integer from which the random draws of a sample are made, by the sample's id."""
    return int.from_bytes(hashlib.sha256(sample.encode()).digest()[:8], "big") >> 1
