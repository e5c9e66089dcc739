"""Prompts for models of any family, with random words and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tokensieve.models.adapter import Adapter
from tokensieve.models.decoder import Decoder, Modality
from tokensieve.testing.checks import require

Part = int | tuple[str, int]
"""A number of text tokens, or a picture: `("image", seed)`, `("video", seed)`."""
PAD, BEGIN = 0, 1


@torch.no_grad()
def randomize_weights(model: nn.Module, seed: int = 0) -> nn.Module:
    """Replace all weights of a tiny model by random weights so large that every token matters.

    With freshly initialised weights all tokens are nearly equal: a wrong mask or position would change logits less
    than rounding does.
    """
    draw = torch.Generator().manual_seed(seed)
    for name, weight in sorted(model.named_parameters()):
        noise = torch.randn(weight.shape, generator=draw)
        if "embed_tokens" in name or "class_embedding" in name or not weight.ndim:
            weight.copy_(noise)
        elif weight.ndim == 1 and "norm" in name and name.endswith("weight"):
            weight.copy_(1 + 0.2 * noise)
        elif weight.ndim == 1:
            weight.copy_(0.2 * noise)
        else:
            weight.copy_(1.5 * noise / weight[0].numel() ** 0.5)
    return model


@dataclass(frozen=True, eq=False)
class Row:
    """A prompt.

    Attributes:
        words: token ids without padding, with one placeholder for each visual token.
        pictures: the seeds of the pictures, by modality.
    """

    words: tuple[int, ...]
    pictures: dict[str, list[int]]


class Prompts:
    """Makes prompts for a model.

    Attributes:
        model: the tiny model of the adapter.
        adapter: the adapter of the model.
        decoder: the adapter's decoder.
    """

    def __init__(self, model: nn.Module, adapter: Adapter) -> None:
        decoder = adapter.decoder
        if decoder is None:
            raise TypeError(f"{type(model).__name__} has no language model, so it takes no prompts")
        self.model = model
        self.adapter = adapter
        self.decoder: Decoder = decoder

    @property
    def reserved_token_ids(self) -> list[int]:
        """The token ids that must not be generated: placeholders of visual tokens, and special tokens around them."""
        marks = {modality.placeholder_id for modality in self.decoder.modalities}
        return sorted(marks.union(self.adapter.reserved_token_ids(self.model)))

    def row(self, parts: Sequence[Part], seed: int = 0) -> Row:
        """Return a prompt of its parts, with random text."""
        modalities = {modality.name: modality for modality in self.decoder.modalities}
        seeds: dict[str, list[int]] = {name: [] for name in modalities}
        for part in parts:
            if isinstance(part, tuple):
                seeds[part[0]].append(part[1])
        layouts = {name: iter(self._layouts(name, own)) for name, own in seeds.items() if own}
        draw = torch.Generator().manual_seed(1000 + seed)
        words = [BEGIN]
        for part in parts:
            if isinstance(part, tuple):
                words += self._placed(modalities[part[0]], next(layouts[part[0]]))
            else:
                words += torch.randint(3, 60, (part,), generator=draw).tolist()
        return Row(tuple(words), seeds)

    def _layouts(self, name: str, seeds: list[int]) -> list[Tensor]:
        """Return the layout of every picture of a prompt."""
        request = self.adapter.random_inputs(self.model, [seeds], name)
        with torch.no_grad():
            output = self.decoder.encode_visual_inputs(request)[name]
        layouts = self.decoder.layout(name, output, request)
        require(
            len(layouts) == len(seeds), f"`layout` returns {len(layouts)} layouts for {len(seeds)} {name}s of a prompt"
        )
        said, found = self.decoder.tokens_per_image, [len(layout) for layout in layouts]
        require(
            said is None or set(found) == {said},
            f"`tokens_per_image` is {said}, and {name}s have {', '.join(map(str, found))} tokens by `layout`",
        )
        return layouts

    def _placed(self, modality: Modality, layout: Tensor) -> list[int]:
        if modality.name != "video" or not self.adapter.text_between_frames:
            return [modality.placeholder_id] * len(layout)
        words: list[int] = []
        for frame in layout[:, 1].unique().tolist():
            words += [7 + frame] + [modality.placeholder_id] * int((layout[:, 1] == frame).sum())
        return words

    def batch(self, rows: Sequence[Row], side: str = "left", room: int = 0) -> dict[str, Any]:
        """Return the arguments of forward for prompts, padded to the longest and by `room` places more."""
        width = max(len(row.words) for row in rows) + room
        ids = torch.full((len(rows), width), PAD)
        mask = torch.zeros(len(rows), width, dtype=torch.int64)
        for number, row in enumerate(rows):
            at = slice(width - len(row.words), width) if side == "left" else slice(0, len(row.words))
            ids[number, at] = torch.tensor(row.words)
            mask[number, at] = 1
        inputs = {"input_ids": ids, "attention_mask": mask} | self.pictures(rows)
        return inputs | self.adapter.aligned_inputs(self.model, ids)

    def pictures(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Return the pixel arguments of forward for the pictures of prompts."""
        found: dict[str, Tensor] = {}
        for modality in self.decoder.modalities:
            made = self.adapter.random_inputs(self.model, [row.pictures[modality.name] for row in rows], modality.name)
            found |= {
                name: value.to(self.model.dtype) if value.is_floating_point() else value  # type: ignore[arg-type]
                for name, value in made.items()
            }
        return found

    def visual(self, row: Row) -> list[int]:
        """Return the place of every visual token in the prompt, by id."""
        marks = {modality.placeholder_id for modality in self.decoder.modalities if row.pictures[modality.name]}
        return [place for place, word in enumerate(row.words) if word in marks]
