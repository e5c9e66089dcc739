"""Which samples are taken where there are more than wanted."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from tokensieve.tasks.base import Sample


def stratified_indices(kinds: Sequence[str], count: int) -> list[int]:
    """Return at most `count` places, evenly spread over types of question, and within each over the task.

    Tasks ask their types in turn, so evenly spaced samples could all be of one.

    Args:
        kinds: the samples' types.
        count: how many places are wanted.
    """
    places: dict[str, list[int]] = {}
    for number, kind in enumerate(kinds):
        places.setdefault(kind, []).append(number)
    # One more of each type in turn, until there are enough.
    wanted = dict.fromkeys(places, 0)
    while sum(wanted.values()) < min(count, len(kinds)):
        for kind, own in places.items():
            if sum(wanted.values()) < count and wanted[kind] < len(own):
                wanted[kind] += 1
    chosen = []
    for turn, (kind, own) in enumerate(places.items()):
        # Every type starts elsewhere, so that types have different pictures.
        start = turn / len(places)
        chosen += [own[int((number + start) * len(own) / wanted[kind])] for number in range(wanted[kind])]
    return sorted(chosen)


def select_samples(samples: Sequence[Sample], limit: int | None) -> list[Sample]:
    """Return at most `limit` samples, evenly spread over types of question and over all of them."""
    if limit is None or limit >= len(samples):
        return list(samples)
    return [samples[place] for place in stratified_indices([sample.kind for sample in samples], limit)]


def sample_key(sample: str) -> int:
    """Return the number from which a sample's random draws are made: another for every sample."""
    return int.from_bytes(hashlib.sha256(sample.encode()).digest()[:8], "big") >> 1
