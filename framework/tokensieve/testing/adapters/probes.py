"""Strategies that the kit runs on a model, among them one that records the evidence it gets."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

import tokensieve as ts
from tokensieve.evidence import PER_TOKEN


class LargestFeatures(ts.Scorer):
    """Keeps the tokens with the largest features, computed in float64."""

    name = "kit_largest"

    def score(self, tokens: ts.Tokens) -> Tensor:
        """Return the Euclidean norm, `[rows, n]`."""
        norm: Tensor = torch.linalg.vector_norm(tokens.features.double(), dim=-1)
        return norm


class EveryOther(ts.Scorer):
    """Keeps every other token first, whatever is known of it."""

    name = "kit_every_other"

    @property
    def needs(self) -> frozenset[ts.Evidence]:
        """Nothing."""
        return frozenset()

    def score(self, tokens: ts.Tokens) -> Tensor:
        """Return 1 for odd ids and 0 for even ones, `[rows, n]`."""
        return (tokens.ids % 2).double()


class MostAttended(ts.Scorer):
    """Keeps the tokens to which the prompt's last token attends most."""

    name = "kit_attended"

    @property
    def needs(self) -> frozenset[ts.Evidence]:
        """The attention of the layer before."""
        return frozenset({ts.Evidence.DECODER_ATTENTION})

    def score(self, tokens: ts.Tokens) -> Tensor:
        """Return the mean attention over heads, `[rows, n]`."""
        return tokens.decoder_attention.double().mean(dim=-1)


class EvidenceRecorder(ts.Scorer):
    """Keeps the first tokens, and records the evidence it gets.

    Attributes:
        kinds: the evidence that it needs.
        seen: the tokens it was called with, the latest last.
    """

    name = "kit_recorder"
    kinds: frozenset[ts.Evidence] = frozenset({ts.Evidence.FEATURES})
    seen: ClassVar[list[ts.Tokens]] = []

    @property
    def needs(self) -> frozenset[ts.Evidence]:
        """The evidence in `kinds`."""
        return self.kinds

    def score(self, tokens: ts.Tokens) -> Tensor:
        """Return higher scores for earlier tokens, `[rows, n]`."""
        self.seen.append(tokens)
        return -tokens.ids.double()


class Failing(ts.Scorer):
    """Raises an error when it is run."""

    name = "kit_failing"

    def score(self, tokens: ts.Tokens) -> Tensor:
        """Raise `ZeroDivisionError`."""
        raise ZeroDivisionError("asked to fail")


def evidence_by_field(tokens: ts.Tokens, row: int) -> dict[str, Tensor]:
    """Return the evidence of a row without padding, by kind, or by `kind.field` where a kind has several tensors."""
    found: dict[str, Tensor] = {}
    real = tokens.valid[row]
    for kind, value in tokens.evidence.items():
        if isinstance(value, Tensor):
            found[str(kind)] = value[row][real]
            continue
        text = value.mask[row]
        for field, part in vars(value).items():
            if not isinstance(part, Tensor) or field == "mask":
                continue
            own = part[row]
            if field in PER_TOKEN:
                # What is known of each pair has the text in its third dimension.
                found[f"{kind}.{field}"] = own[real] if field == "patch" else own[real][:, text]
            else:
                found[f"{kind}.{field}"] = own[text]
    return found
