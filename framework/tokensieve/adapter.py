"""What an adapter is: how a model family carries tokens.

An adapter declares where things are in a model; the engine does the rest. A model has a language
model that carries visual tokens (`Decoder`), a vision encoder (`Encoder`), or both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from tokensieve.errors import RefusedError
from tokensieve.evidence import Evidence
from tokensieve.sites import Site

if TYPE_CHECKING:
    from tokensieve.recipe import Stage

ENCODER_EVIDENCE = frozenset({Evidence.FEATURES, Evidence.GRID, Evidence.SIZES})


def decoder_evidence(block: int) -> frozenset[Evidence]:
    """Give what the engine itself can collect at `decoder.block`."""
    always = {Evidence.FEATURES, Evidence.QUERY, Evidence.TEXT_FEATURES, Evidence.GRID, Evidence.SIZES}
    return frozenset(always | ({Evidence.DECODER_ATTENTION, Evidence.DECODER_KEYS} if block else set()))


class Partner(Protocol):
    """A text tower that shares a space with the model's vision tower."""

    space: str
    """What the space is called in the ledger."""
    sign: int
    """+1 where a larger similarity means more relevant, -1 where the release is turned around."""
    warning: str | None
    """What the ledger says about the sign, where it is a guess."""

    def patches(self, selected: Tensor) -> Tensor:
        """Project the vision tower's selected layer `[..., c]` into the space, `[..., e]`."""
        ...

    def text(self, question: str) -> Tensor:
        """Embed a question, `[windows, e]`; none for an empty question."""
        ...


class Decoder(ABC):
    """A language model that carries visual tokens among its text.

    The defaults fit a Hugging Face model whose base model has `get_image_features`, a
    `language_model` of full-attention layers, and takes `mm_encoder_outputs`.
    """

    projector_name: ClassVar[str] = "multi_modal_projector"
    """The base model's module that takes the vision tower's selected layer."""
    pixel_keys: ClassVar[tuple[str, ...]] = ("pixel_values",)
    """The arguments of forward whose presence makes a call a prefill with images."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @property
    def base(self) -> nn.Module:
        """The model without its head."""
        return _module(self.model, "model")

    @property
    def language_model(self) -> nn.Module:
        """The text model."""
        return _module(self.base, "language_model")

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The text model's layers."""
        layers = _module(self.language_model, "layers")
        return [layers.get_submodule(name) for name, _ in layers.named_children()]

    @property
    def projector(self) -> nn.Module:
        """The module whose input is the vision tower's selected layer."""
        return _module(self.base, self.projector_name)

    @property
    def config(self) -> Any:
        """The model's config."""
        return self.model.config

    @property
    def text_config(self) -> Any:
        """The text model's config."""
        return self.config.get_text_config()

    def attention(self, block: int) -> nn.Module:
        """Give the attention module of a layer."""
        return _module(self.layers[block], "self_attn")

    def embed(self, ids: Tensor) -> Tensor:
        """Give the text model's own embeddings `[..., d]` of token ids."""
        embedding = self.model.get_input_embeddings()  # type: ignore[operator]
        result: Tensor = embedding(ids)
        return result

    def rotate(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Give the position embeddings that layers take, for `positions` `[batch, n]`."""
        rotary = _module(self.language_model, "rotary_emb")
        cos, sin = rotary(hidden, position_ids=positions)
        return cos, sin

    @property
    def placeholders(self) -> tuple[int, ...]:
        """The token ids that stand for one visual token each."""
        return (int(self.config.image_token_id),)

    def encode(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Encode a request's images as `generate` does, or take what is encoded already."""
        given = request.get("mm_encoder_outputs") or {}
        if any(output is not None for output in given.values()):
            return dict(given)
        import inspect

        encoder = self.base.get_image_features
        known = inspect.signature(encoder).parameters  # type: ignore[arg-type]
        taken = {key: request[key] for key in known if request.get(key) is not None}
        return {"image": encoder(**taken, return_dict=True)}  # type: ignore[operator]

    def features(self, outputs: Mapping[str, Any]) -> Tensor:
        """Give the projected features `[tokens, d]`, in the order of their placeholders."""
        parts = [item.reshape(-1, item.shape[-1]) for item in outputs["image"].pooler_output]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def deliver(self, outputs: Mapping[str, Any], features: Tensor) -> dict[str, Any]:
        """Give outputs of the same kind that hold `features` `[tokens, d]` instead."""
        return {"image": type(outputs["image"])(pooler_output=[features])}

    @abstractmethod
    def layout(self, outputs: Mapping[str, Any]) -> list[Tensor]:
        """Give where the tokens of each image are, int64 `[tokens, 4]`: tile, frame, row, column."""

    def partner(self, query_encoder: object) -> Partner:
        """Load the text tower that shares a space with the vision tower.

        Raises:
            RefusedError: if the family has none, or this is not one.
        """
        raise RefusedError(f"{type(self.model).__name__} takes no query_encoder; leave it out")

    def refuses(self, stage: Stage) -> list[str]:
        """Say why this model cannot be pruned at the stage; nothing if it can."""
        block = stage.at.block
        reasons = []
        config = self.text_config
        kinds = set(getattr(config, "layer_types", None) or ())
        if block and (kinds - {"full_attention"} or getattr(config, "sliding_window", None)):
            reasons.append(
                f"its text layers are not all full attention ({', '.join(sorted(kinds)) or 'sliding window'}); "
                "a window counts entries, so pruning inside it changes what it means. Prune at decoder.0"
            )
        implementation = getattr(config, "_attn_implementation", None)
        if block and implementation not in ("sdpa", "eager"):
            reasons.append(
                f"its attention implementation is {implementation}; inside the language model only sdpa and eager "
                "are supported. Load it with attn_implementation='sdpa', or prune at decoder.0"
            )
        return reasons


class Encoder(ABC):
    """A vision encoder whose blocks can carry fewer tokens."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """The blocks; their first argument is the tokens, `[batch, prefix + n, d]`."""

    @property
    @abstractmethod
    def prefix(self) -> int:
        """How many leading tokens are no patches (class and register tokens); they always stay."""

    @abstractmethod
    def layout(self, n: int) -> Tensor:
        """Give where the `n` patches of an image are, int64 `[n, 4]`: tile, frame, row, column."""

    @property
    def forbidden(self) -> tuple[str, ...]:
        """Methods of the model that assume a full grid and are refused while tokens are dropped."""
        return ()

    def refuses(self, stage: Stage) -> list[str]:
        """Say why this model cannot be pruned at the stage; nothing if it can."""
        if stage.rest == "merge":
            return ["inside a vision encoder tokens can only be dropped; say rest: drop"]
        return []


class Adapter(ABC):
    """How a model family carries tokens. Subclass it to add a family.

    Attributes:
        model: the model.
    """

    name: ClassVar[str]
    """What the family is called: a Python identifier."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @classmethod
    @abstractmethod
    def matches(cls, model: nn.Module) -> bool:
        """Tell whether this adapter is for the model, from its class and config alone."""

    @classmethod
    @abstractmethod
    def tiny(cls) -> nn.Module:
        """Give a random-weight model of the family, small enough for tests."""

    @classmethod
    def example(cls, directory: Path) -> str | None:
        """Save a small checkpoint of real geometry with its processor, and say what it is.

        It is what demonstrations load, as users load theirs, when no model is given.

        Args:
            directory: an existing, empty folder, written with `save_pretrained`.

        Returns:
            What was saved, in a sentence that also says what its answers are worth; none if the
            family has no example, and then nothing is written.
        """
        return None

    @property
    def decoder(self) -> Decoder | None:
        """The language model, if there is one."""
        return None

    @property
    def encoder(self) -> Encoder | None:
        """The vision encoder, if tokens can leave in it."""
        return None

    def sites(self) -> tuple[Site, ...]:
        """Give every site there is, in the order data passes them."""
        encoder = range(len(self.encoder.blocks)) if self.encoder is not None else ()
        decoder = range(len(self.decoder.layers)) if self.decoder is not None else ()
        return (*(Site("encoder", k) for k in encoder), *(Site("decoder", k) for k in decoder))

    def offers(self, site: Site) -> frozenset[Evidence]:
        """Give the evidence there is at a site."""
        return ENCODER_EVIDENCE if site.part == "encoder" else decoder_evidence(site.block)

    def refuses(self, stage: Stage) -> list[str]:
        """Say why this model cannot be pruned at the stage; nothing if it can."""
        part = self.encoder if stage.at.part == "encoder" else self.decoder
        return part.refuses(stage) if part is not None else []


def _module(parent: nn.Module, name: str) -> nn.Module:
    child = getattr(parent, name, None)
    if not isinstance(child, nn.Module):
        raise RefusedError(f"{type(parent).__name__} has no module '{name}'; this adapter does not fit the model")
    return child
