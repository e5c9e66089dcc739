"""Prompts of any length for a model: copies of one picture or video, between words drawn at random.

What a prefill costs depends on how many tokens of which kind it has, and not on what they say.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokensieve.engine import prune
from tokensieve.errors import RefusedError
from tokensieve.evidence import Tokens
from tokensieve.models.adapter import Adapter
from tokensieve.models.decoder import Decoder, Modality
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe
from tokensieve.strategy import Scorer

_LARGEST_ID = 2000
"""Words are drawn from the ids below it: large vocabularies have marks at their ends."""


class InOrder(Scorer):
    """Keeps the first tokens of a picture: what is kept has no influence on the time of what follows."""

    name = "in_order"

    def score(self, tokens: Tokens) -> Tensor:
        """Return one score a token: the earlier, the higher."""
        return -tokens.ids.double()


class Prompts:
    """Makes requests for a model.

    Attributes:
        adapter: of the model.
        decoder: the adapter's.
        modality: what the prompts show.
        visual: the visual tokens of one picture or video.
    """

    def __init__(self, adapter: Adapter, picture: Mapping[str, Tensor]) -> None:
        """Read how many visual tokens a picture has, by encoding it.

        Args:
            adapter: of the model.
            picture: the arguments of forward for one picture or video, as the model's processor makes them.

        Raises:
            RefusedError: if the model has no language model, or takes no such pictures.
        """
        decoder = adapter.decoder
        if decoder is None:
            raise RefusedError(f"{type(adapter.model).__name__} has no language model, so it takes no prompts")
        self.adapter, self.decoder = adapter, decoder
        self.modality = _shown(decoder, picture)
        weight: Any = next(adapter.model.parameters())
        self._picture = {name: _placed(value, weight) for name, value in picture.items()}
        with torch.no_grad():
            output = decoder.encode_visual_inputs(self._picture)[self.modality.name]
        self.visual = sum(len(one) for one in decoder.layout(self.modality.name, output, self._picture))
        self._draw = torch.Generator().manual_seed(0)

    @property
    def model(self) -> Any:
        """The model."""
        return self.adapter.model

    def request(self, batch: int, visual: int, text: int) -> dict[str, Any]:
        """Return the arguments of forward for prompts of equal length.

        Args:
            batch: the number of prompts.
            visual: visual tokens of each, a multiple of a picture's.
            text: text tokens of each.

        Raises:
            RefusedError: if `visual` is no multiple, or there are too few words to stand around the pictures.
        """
        pictures, left = divmod(visual, self.visual)
        if left or not pictures:
            raise RefusedError(
                f"no prompt of {visual} visual tokens can be made: one {self.modality.name} has {self.visual} of them; "
                f"take a multiple of {self.visual}"
            )
        if text <= pictures:
            raise RefusedError(f"{pictures} pictures need at least {pictures + 1} text tokens around them, not {text}")
        ids = torch.stack([self._words(pictures, text) for _ in range(batch)])
        # Other pixels for each: a vision cache, if there is one, finds nothing.
        shown = [self._another() for _ in range(batch * pictures)]
        request: dict[str, Any] = {
            "input_ids": ids.to(self.model.device),
            "attention_mask": torch.ones_like(ids).to(self.model.device),
            **self.decoder.collate_inputs(self.modality, shown),
        }
        if "mm_token_type_ids" in inspect.signature(type(self.decoder.base_model).forward).parameters:
            kind = 2 if self.modality.name == "video" else 1
            request["mm_token_type_ids"] = kind * (request["input_ids"] == self.modality.placeholder_id).int()
        return request

    def _another(self) -> dict[str, Tensor]:
        name = self.modality.pixel_argument
        pixels = self._picture[name]
        noise = torch.randn(pixels.shape, generator=self._draw)
        return {**self._picture, name: noise.to(pixels.device, pixels.dtype)}

    def _words(self, pictures: int, text: int) -> Tensor:
        """Return a prompt's ids `[n]`: words before, between and after the pictures."""
        marks = {modality.placeholder_id for modality in self.decoder.modalities}
        settings = vars(self.decoder.config).items()
        marks |= {value for name, value in settings if name.endswith("token_id") and isinstance(value, int)}
        known = [one for one in range(3, min(self.decoder.vocabulary_size, _LARGEST_ID)) if one not in marks]
        words = torch.tensor(known)[torch.randint(len(known), (text,), generator=self._draw)]
        picture = torch.full((self.visual,), self.modality.placeholder_id)
        parts = list(words.tensor_split(pictures + 1))
        return torch.cat([parts[0], *(part for one in parts[1:] for part in (picture, one))])


def floor_request(request: Mapping[str, Any], adapter: Adapter, keep: int, registry: Registry) -> dict[str, Any]:
    """Return a request that has `keep` visual tokens a prompt from the start, already encoded.

    It is what `prune` makes of the request when it keeps the first tokens: so it is right for every family, and the
    model runs on it without any of our code.

    Args:
        request: the arguments of forward.
        adapter: of the model, which runs the shorter request once.
        keep: how many visual tokens a prompt has.
        registry: where the adapter is looked up.
    """
    model: Any = adapter.model
    forward, taken = model.forward, {}

    def taking(*args: Any, **kwargs: Any) -> Any:
        taken.update(kwargs)
        return forward(*args, **kwargs)

    recipe = Recipe.of(InOrder(), keep, name="floor", per="sample")
    before = vars(model).get("forward")
    model.forward = taking
    try:
        with torch.no_grad(), prune(model, recipe, registry=registry):
            model(**request, use_cache=True, logits_to_keep=1)
    finally:
        if before is None:
            del model.forward
        else:
            model.forward = before
    return {name: value for name, value in taken.items() if name not in ("use_cache", "logits_to_keep")}


def _shown(decoder: Decoder, picture: Mapping[str, Tensor]) -> Modality:
    """Return the kind of visual input of a picture's arguments."""
    for modality in decoder.modalities:
        if modality.pixel_argument in picture:
            return modality
    raise RefusedError(f"{type(decoder.model).__name__} takes no pictures as {', '.join(picture)}")


def _placed(value: Tensor, weight: Tensor) -> Tensor:
    """Return an argument where the model is, in its dtype; noise for what has a shape only."""
    if value.is_meta:
        value = torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
    return value.to(weight.device, weight.dtype if value.is_floating_point() else None)
