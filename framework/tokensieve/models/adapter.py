"""What an adapter is: how a model family carries tokens.

An adapter declares where things are in a model; the engine does the rest. A model has a language
model that carries visual tokens (`Decoder`), a vision encoder (`Encoder`), or both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokensieve.evidence import Evidence
from tokensieve.models.decoder import Decoder
from tokensieve.models.encoder import Encoder
from tokensieve.models.offers import ENCODER_EVIDENCE, VISION_EVIDENCE, decoder_evidence
from tokensieve.sites import Site
from tokensieve.stage import Stage


class Adapter(ABC):
    """How a model family carries tokens. Subclass it to add a family.

    Attributes:
        model: the model.
    """

    name: ClassVar[str]
    """What the family is called: a Python identifier."""
    model_types: ClassVar[tuple[str, ...]] = ()
    """The model types, of the config, that it is for. Where these do not decide, override `matches`."""
    decoder_type: ClassVar[type[Decoder] | None] = None
    """How its language model carries tokens, if it has one."""
    encoder_type: ClassVar[type[Encoder] | None] = None
    """How its vision encoder carries tokens, if they can leave in it."""
    oldest_transformers: ClassVar[tuple[int, int]] = (5, 19)
    """The oldest transformers with which the family passes the conformance kit; before 5.19 none does."""
    text_between_frames: ClassVar[bool] = False
    """Whether its processor puts text between the frames of a video."""
    refused: ClassVar[str | None] = None
    """Why the family cannot be pruned, and what to do instead; for families that are known, and refused."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        """Return whether this adapter is for the model, from its class and config alone.

        By default, whether the model answers in words and its type is among `model_types`.
        """
        kind = getattr(getattr(model, "config", None), "model_type", None)
        return kind in cls.model_types and hasattr(model, "generate")

    @classmethod
    @abstractmethod
    def tiny(cls) -> nn.Module:
        """Return a random-weight model of the family, small enough for tests."""

    @classmethod
    def pictures(cls, model: nn.Module, rows: Sequence[Sequence[int]], modality: str = "image") -> dict[str, Tensor]:
        """Make random pictures for prompts, as the family's processor hands them over; for the conformance kit.

        The default is for towers of one size: `[pictures, 3, side, side]`, with two frames for videos.

        Args:
            model: made by `tiny`.
            rows: for every prompt, a seed a picture; the same seed always gives the same picture.
            modality: `image` or `video`.

        Returns:
            Arguments of forward; nothing where there are no pictures.
        """
        size: Any = model.config.vision_config.image_size  # type: ignore[union-attr]
        side = size if isinstance(size, int) else size[0]
        shape = (3, side, side) if modality == "image" else (2, 3, side, side)
        made = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for row in rows for seed in row]
        name = "pixel_values" if modality == "image" else "pixel_values_videos"
        return {name: torch.stack(made)} if made else {}

    @classmethod
    def aligned_inputs(cls, model: nn.Module, ids: Tensor, answered: int = 0) -> dict[str, Tensor]:
        """Return what else the family's processor makes of prompts, running along them; nothing by default.

        Args:
            model: made by `tiny`.
            ids: int64 `[rows, n]`.
            answered: how many words at the end are the model's own.
        """
        return {}

    @classmethod
    def reserved_token_ids(cls, model: nn.Module) -> tuple[int, ...]:
        """Return words that forward reads as parts of pictures wherever they stand; for the conformance kit.

        It never lets a model say them. The default is none beside the placeholders.

        Args:
            model: made by `tiny`.
        """
        return ()

    @classmethod
    def example(cls, directory: Path, sites: Sequence[Site] = ()) -> str | None:
        """Save a small checkpoint of real geometry with its processor, and say what it is.

        It is what demonstrations load, as users load theirs, when no model is given.

        Args:
            directory: an existing, empty folder, written with `save_pretrained`.
            sites: that it shall have, if it can: a recipe for a deep model needs a deep one.

        Returns:
            What was saved, in a sentence that also says what its answers are worth; none if the
            family has no example, and then nothing is written.
        """
        return None

    @property
    def decoder(self) -> Decoder | None:
        """The language model, if there is one."""
        return None if self.decoder_type is None else self.decoder_type(self.model)

    @property
    def encoder(self) -> Encoder | None:
        """The vision encoder, if tokens can leave in it."""
        return None if self.encoder_type is None else self.encoder_type(self.model)

    def sites(self) -> tuple[Site, ...]:
        """Return every site there is, in the order data passes them."""
        encoder = range(self.encoder.depth) if self.encoder is not None else ()
        decoder = range(len(self.decoder.layers)) if self.decoder is not None else ()
        return (*(Site("encoder", k) for k in encoder), *(Site("decoder", k) for k in decoder))

    def offers(self, site: Site) -> frozenset[Evidence]:
        """Return the evidence there is at a site."""
        if site.part == "encoder" or self.decoder is None:
            return ENCODER_EVIDENCE
        offered = decoder_evidence(site.block) | (VISION_EVIDENCE if self.decoder.vision_layers else frozenset())
        if site.block and not self.decoder.takes_rotary(site.block - 1):
            offered -= {Evidence.DECODER_CONTENT}
        return offered

    def refuses(self, stage: Stage) -> list[str]:
        """Say why this model cannot be pruned at the stage; nothing if it can."""
        part = self.encoder if stage.at.part == "encoder" else self.decoder
        return part.refuses(stage) if part is not None else []
