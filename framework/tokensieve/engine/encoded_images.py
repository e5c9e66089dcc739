"""Encoded images: what a vision cache holds, and how a batch of images is separated and joined again."""

from __future__ import annotations

import hashlib
import inspect
import operator
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from tokensieve.models.decoder import Modality

TOWER_OUTPUTS = frozenset({"last_hidden_state", "hidden_states", "attentions", "pooler_output", "deepstack_features"})
"""What encoders give settings features is of the tower, and no forward reads it; anything else might be needed."""
NEUTRAL_ARGUMENTS = frozenset({"return_dict", "use_cache"})
"""Arguments that have no influence on features."""
PLAIN = (bool, int, float, str)


class TowerObserver(Protocol):
    """Collects evidence while the vision tower runs."""

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of evidence that are collected."""
        ...

    def take(self, modality: str) -> dict[str, Tensor]:
        """Return the evidence collected since encoding began, `[patches, c]` by kind, and forget it."""
        ...

    def put(self, modality: str, evidence: Mapping[str, Tensor]) -> None:
        """Set the collected evidence."""
        ...


class WeightsSnapshot:
    """The weights and settings of an encoder at one time, to find out whether they changed since."""

    def __init__(self, weights: Sequence[Tensor], settings: str = "") -> None:
        # Held, so that no other tensor can take the place of one of them.
        self._weights = list(weights)
        self._state = _state(weights)
        self._settings = settings

    def matches(self, weights: Sequence[Tensor], settings: str = "") -> bool:
        """Return whether these are the same tensors, and nothing was written into them."""
        same = len(weights) == len(self._weights) and all(map(operator.is_, weights, self._weights))
        return same and settings == self._settings and _state(weights) == self._state


def _state(weights: Sequence[Tensor]) -> list[tuple[int, int]]:
    return [(0 if weight.is_inference() else weight._version, weight.data_ptr()) for weight in weights]


class NotSeparableError(Exception):
    """The output of an encoder cannot be separated by image."""


@dataclass(eq=False)
class EncodedImage:
    """The output of the encoder for one image.

    Attributes:
        items: its part of `pooler_output`: one or more items.
        deep: its items of every added layer of the tower.
        evidence: by kind, evidence about its patches `[patches, c]`; none where the tower gave none.
    """

    items: list[Tensor]
    deep: list[list[Tensor]]
    evidence: dict[str, Tensor | None]

    def with_evidence(self, evidence: Mapping[str, Tensor | None]) -> EncodedImage:
        """Return the image with further evidence; what is known already stays."""
        return EncodedImage(self.items, self.deep, {**evidence, **self.evidence})

    @cached_property
    def size(self) -> int:
        """The number of bytes that it holds."""
        seen = [values for values in self.evidence.values() if values is not None]
        tensors = [*self.items, *(item for layer in self.deep for item in layer), *seen]
        return sum(tensor.nelement() * tensor.element_size() for tensor in tensors)


@dataclass(frozen=True, eq=False)
class EncodeCall:
    """A call of the encoder, separated by image.

    Attributes:
        modality: which kind.
        pictures: by picture, the arguments that are its own.
        keys: by picture, what its encoding depends on.
    """

    modality: Modality
    pictures: list[dict[str, Tensor]]
    keys: list[Hashable]


@dataclass(frozen=True, eq=False)
class OutputFormat:
    """The class and layout of an encoder's output, to make one for other images.

    Attributes:
        kind: their class.
        pooled: what holds the items: a list, a tuple, or a tensor with one row an item.
    """

    kind: type[Any]
    pooled: type[Any]

    def of(self, images: Sequence[EncodedImage]) -> Any:
        """Return an output for images in order, in tensors of its own."""
        items = _fresh([item for image in images for item in image.items])
        pooled = torch.stack(items) if issubclass(self.pooled, Tensor) else self.pooled(items)
        output = self.kind(**dict.fromkeys(field.name for field in fields(self.kind)))
        output.pooler_output = pooled
        depth = len(images[0].deep)
        if depth:
            deep = [_fresh([item for image in images for item in image.deep[layer]]) for layer in range(depth)]
            output.deepstack_features = deep
        return output


def arguments_by_name(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return a call's arguments by name."""
    given: dict[str, Any] = {}
    for name, value in signature.bind_partial(*args, **kwargs).arguments.items():
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            given |= value
        else:
            given[name] = value
    return given


def without_none(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that are not none."""
    return {name: value for name, value in given.items() if value is not None}


def image_digest(picture: Mapping[str, Tensor]) -> bytes:
    """Return a hash of an image's pixels and of its other arguments."""
    digest = hashlib.sha256()
    for name, value in sorted(picture.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} {value.device}\n".encode())
        flat = value.detach().contiguous().reshape(-1).view(torch.uint8).cpu()
        digest.update(flat.numpy().data)
    return digest.digest()


def split_by_image(values: Tensor, pictures: Sequence[Mapping[str, Tensor]], modality: Modality) -> list[Tensor]:
    """Split evidence about patches `[patches, c]` by image, in proportion to the numbers of pixels."""
    pixels = [picture[modality.pixel_argument].nelement() for picture in pictures]
    whole = sum(pixels)
    if any(len(values) * own % whole for own in pixels):
        raise NotSeparableError(f"what the tower shows cannot be told apart by {modality.name}")
    return list(values.detach().split([len(values) * own // whole for own in pixels]))


def join_images(images: Sequence[EncodedImage], kinds: frozenset[str]) -> dict[str, Tensor]:
    """Join evidence about images in order, leaving out kinds that are not known of all of them."""
    joined = {}
    for kind in kinds:
        seen = [values for values in (image.evidence[kind] for image in images) if values is not None]
        if len(seen) == len(images):
            joined[kind] = torch.cat(seen)
    return joined


def _fresh(items: Sequence[Tensor]) -> list[Tensor]:
    """Return copies of tensors that agree in all but their first size."""
    return list(torch.cat(list(items)).split([len(item) for item in items]))
