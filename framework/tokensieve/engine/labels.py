"""What becomes of labels: how many terms a loss has, and whether each is predicted by a place that stayed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tokensieve.errors import RefusedError

IGNORED = -100
"""The label of places that are no part of a loss."""


def check_labels(request: Mapping[str, Any], shorter: Mapping[str, Any], notes: list[str]) -> None:
    """Note, or refuse, that a loss has fewer terms than its labels ask for.

    Args:
        request: the caller's arguments.
        shorter: the same, with the labels of what stays.
        notes: of the ledger.

    Raises:
        RefusedError: if the caller divides by the number of labels, as the Trainer of transformers does.
    """
    lost = _terms(request) - _terms(shorter)
    if not lost:
        return
    if request.get("num_items_in_batch") is not None:
        raise RefusedError(
            f"{lost} labelled places leave, such as image placeholders, but num_items_in_batch counts them (Trainer "
            f"passes it), so the loss would be too small; set labels of placeholders and padding to {IGNORED}"
        )
    notes.append(f"labels: {lost} labelled places left; the loss is the mean over those that stay")


def _terms(request: Mapping[str, Any]) -> int:
    """Return how many terms the loss of a request has."""
    labels, shifted = request.get("labels"), request.get("shift_labels")
    if isinstance(shifted, Tensor):
        return int((shifted != IGNORED).sum())
    # The first place of a row is predicted by nothing.
    return int((labels[:, 1:] != IGNORED).sum()) if isinstance(labels, Tensor) else 0


def note_blind_labels(labels: Tensor, real: Tensor, stays: Tensor, notes: list[str]) -> None:
    """Note labels that are predicted by places that left inside the language model.

    Args:
        labels: int64 `[rows, n]`.
        real: bool `[rows, n]`, which places entered the language model.
        stays: bool `[rows, n]`, which of them are in its last layer.
        notes: of the ledger.
    """
    blind = int(((labels[:, 1:] != IGNORED) & (real & ~stays)[:, :-1]).sum())
    if blind:
        notes.append(
            f"labels: {blind} are predicted by places that left inside the language model, from what they held when "
            f"they left; set those behind images to {IGNORED}, or prune at decoder.0"
        )
