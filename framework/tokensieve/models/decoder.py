"""A language model that carries visual tokens."""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokensieve.errors import RefusedError
from tokensieve.models.modules import _module
from tokensieve.models.text_tower import TextTower
from tokensieve.stage import Stage


def projected_layers(config: Any, depth: int) -> list[int]:
    """Return which of a vision tower's `depth` layers, counted from 0, the projector takes.

    `vision_feature_layer` counts the embeddings as 0, and -1 is the last layer, which is also taken where the config
    says nothing.
    """
    chosen = getattr(config, "vision_feature_layer", None)
    places = list(chosen) if isinstance(chosen, (list, tuple)) else [-1 if chosen is None else chosen]
    return [depth + place if place < 0 else place - 1 for place in places]


@dataclass(frozen=True)
class Modality:
    """A kind of visual input.

    Attributes:
        name: what the library calls it: `image` or `video`.
        placeholder: the token id that stands for one visual token.
        pixels: the argument of forward whose presence makes a call a prefill with it.
    """

    name: str
    placeholder: int
    pixels: str


class Decoder(ABC):
    """A language model that carries visual tokens among its text.

    The defaults fit a Hugging Face model whose base model has `get_image_features` (and
    `get_video_features`), a `language_model`, and takes `mm_encoder_outputs`.
    """

    projector_name: ClassVar[str] = "multi_modal_projector"
    """The base model's module that takes the vision tower's selected layer."""
    language_name: ClassVar[str] = "language_model"
    """The base model's text model."""
    vision_path: ClassVar[str | None] = None
    """Where the base model has the vision tower's layers; none where what they see cannot be dealt to tokens."""
    vision_types: ClassVar[frozenset[str]] = frozenset()
    """The types, in the config, of towers that this holds for; all where none is named."""
    vision_attention_name: ClassVar[str] = "self_attn"
    """What those layers call their attention."""
    vision_modalities: ClassVar[frozenset[str]] = frozenset({"image"})
    """The modalities whose patches `spread` can deal to tokens."""
    tiled: ClassVar[bool] = False
    """Whether pictures come as tiles of equal rank: those that stand side by side in a prompt are one image."""

    refused_inputs: ClassVar[Mapping[str, str]] = {}
    """Arguments of forward with which the model cannot be pruned, and why."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @property
    def base(self) -> nn.Module:
        """The model without its head."""
        return _module(self.model, "model")

    @property
    def language_model(self) -> nn.Module:
        """The text model."""
        return _module(self.base, self.language_name)

    @property
    def first_layer(self) -> int:
        """The first layer inside the language model at which tokens can leave."""
        return 1

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
        """Return the attention module of a layer."""
        return _module(self.layers[block], "self_attn")

    def takes_rotary(self, block: int) -> bool:
        """Return whether a layer's attention takes its rotary positions as an argument, so that it can do without."""
        try:
            attention = self.attention(block)
        except RefusedError:
            # A layer that carries its past in a state does not attend.
            return False
        return "position_embeddings" in inspect.signature(attention.forward).parameters

    def embed(self, ids: Tensor) -> Tensor:
        """Return the text model's own embeddings `[..., d]` of token ids."""
        embedding = self.model.get_input_embeddings()  # type: ignore[operator]
        result: Tensor = embedding(ids)
        return result

    def rotary_embeddings(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the position embeddings that layers take, for `positions` `[batch, n]`."""
        rotary = _module(self.language_model, "rotary_emb")
        cos, sin = rotary(hidden, position_ids=positions)
        return cos, sin

    def positions(self, request: Mapping[str, Any], mask: Tensor, start: int, steps: int) -> Tensor:
        """Return the positions `[..., batch or 1, steps]` that forward itself would take where none are given.

        Args:
            request: the call's arguments.
            mask: bool `[batch, n]`, which places of the prompt are real.
            start: how many places there were before this call, dropped ones included.
            steps: how many it brings.
        """
        return torch.arange(start, start + steps, device=mask.device).unsqueeze(0)

    def complete_positions(self, positions: Tensor, text: Tensor) -> Tensor:
        """Return positions that say where text is, from those that forward was given.

        Where positions have several axes, the first is of text; a family whose forward may be called
        without it adds it here.

        Args:
            positions: int64 `[..., batch or 1, n]`.
            text: int64 `[batch, n]`, the positions of text.
        """
        return positions

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The kinds of visual input there are."""
        found = []
        for name, pixels in (("image", "pixel_values"), ("video", "pixel_values_videos")):
            placeholder = getattr(self.config, f"{name}_token_id", None)
            if placeholder is not None and hasattr(self.base, f"get_{name}_features"):
                found.append(Modality(name, int(placeholder), pixels))
        return tuple(found)

    def encode(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Encode a request's images as `generate` does, or take what is encoded already; by modality."""
        given = request.get("mm_encoder_outputs") or {}
        outputs = {name: output for name, output in given.items() if output is not None}
        if outputs:
            return outputs
        for modality in self.modalities:
            if request.get(modality.pixels) is not None:
                taken = {key: request[key] for key in self.encoder_arguments(modality) if request.get(key) is not None}
                outputs[modality.name] = self._encoder(modality)(**taken, return_dict=True)
        return outputs

    def encoder_arguments(self, modality: Modality) -> frozenset[str]:
        """Return the arguments that encoding a modality takes, and forward does without afterwards."""
        return frozenset(inspect.signature(self._encoder(modality)).parameters) - {"kwargs"}

    def _encoder(self, modality: Modality) -> Any:
        return getattr(self.base, f"get_{modality.name}_features")

    def split_inputs(self, modality: Modality, given: Mapping[str, Any]) -> list[dict[str, Tensor]] | None:
        """Return what encoding takes of each picture or video alone, in order, without the padding that others cause.

        By default every tensor has one row a picture.

        Args:
            modality: which kind they are of.
            given: the arguments with which a batch of them is encoded.

        Returns:
            Arguments by picture, as `together` takes them; what belongs to no single one is left out. None where
            pictures of a batch cannot be told apart, and so cannot be shared.
        """
        tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        rows = {len(value) if value.ndim else 0 for value in tensors.values()}
        if modality.pixels not in tensors or len(rows) != 1:
            return None
        return [{name: value[row : row + 1] for name, value in tensors.items()} for row in range(rows.pop())]

    def collate_inputs(self, modality: Modality, pictures: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return the arguments with which several pictures are encoded at once, from those of each.

        Tensors that differ in other sizes than their first are padded with zeros at the end.

        Args:
            modality: which kind they are of.
            pictures: as `apart` gives them, one or more.
        """
        return {name: _level([picture[name] for picture in pictures]) for name in pictures[0]}

    def features(self, output: Any) -> Tensor:
        """Return the projected features `[tokens, d]` of a modality, in the order of their placeholders."""
        parts = [item.reshape(-1, item.shape[-1]) for item in output.pooler_output]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def with_features(self, output: Any, features: Tensor, rows: Tensor) -> Any:
        """Return an output of the same kind that holds fewer tokens.

        Args:
            output: of a modality.
            features: `[kept, d]`, instead of its features.
            rows: int64 `[kept]`, the rows of its features that they stand for.
        """
        # Where a model takes a tensor, it takes it by image; one image of all that stays serves as well.
        pooled = features.unsqueeze(0) if isinstance(output.pooler_output, Tensor) else [features]
        # What else it says, of the tower and of words around pictures, stays as it is.
        new = copy.copy(output)
        new.pooler_output = pooled
        layers = getattr(output, "deepstack_features", None)
        if layers is not None:
            flat = [layer if isinstance(layer, Tensor) else torch.cat(list(layer)) for layer in layers]
            new.deepstack_features = [[layer[rows.to(layer.device)]] for layer in flat]
        return new

    @property
    def vision_layers(self) -> Sequence[nn.Module]:
        """The vision tower's layers; none where what they see cannot be dealt to tokens."""
        known = not self.vision_types or self.config.vision_config.model_type in self.vision_types
        return list(self.base.get_submodule(self.vision_path).children()) if self.vision_path and known else ()

    @property
    def vision_layer(self) -> int:
        """Which of them the projector takes, the deepest of several, or is the last that sees whole pictures."""
        return max(projected_layers(self.config, len(self.vision_layers)))

    @property
    def vision_middle(self) -> int:
        """Which of them, counted from 0, VISION_MIDDLE looks at: 9 of CLIP-L's 24, and likewise in others."""
        return round(len(self.vision_layers) * 3 / 8)

    @property
    def vision_prefix(self) -> int:
        """How many class tokens stand before the tower's patches."""
        return 0

    def patches_to_tokens(self, values: Tensor, request: Mapping[str, Any], modality: str = "image") -> Tensor:
        """Return values of visual tokens `[tokens, c]`, in the order of their placeholders.

        The default is for patches that are the tokens. Where several are joined in a token, it has
        their mean.

        Args:
            values: of patches `[..., c]`, in the order in which the tower's layers hold them.
            request: the caller's arguments: sizes and grids.
            modality: which kind of pictures they are of.
        """
        return values.flatten(0, -2)

    def encoded_images(self, modality: str, layouts: Sequence[Tensor], request: Mapping[str, Any]) -> list[int]:
        """Return how many pictures the vision encoder took for each image or video: tiles and frames count.

        Args:
            modality: its name; none of what does not pass through the encoder at all.
            layouts: what `layout` gave.
            request: the caller's arguments: sizes and grids.
        """
        return [1] * len(layouts)

    @abstractmethod
    def layout(self, modality: str, output: Any, request: Mapping[str, Any]) -> list[Tensor]:
        """Return where the tokens of each image or video are, int64 `[tokens, 4]`: tile, frame, row, column.

        A newline token's column is `NEWLINE`.

        Args:
            modality: its name.
            output: its encoded pictures, of which a generation may have made several copies.
            request: the caller's arguments: sizes and grids.
        """

    def text_tower(self, query_encoder: object) -> TextTower:
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
        if 0 < block < self.first_layer:
            reasons.append(
                f"its vision tower still adds to visual tokens after layer {self.first_layer - 1}; prune at "
                f"decoder.0, or at decoder.{self.first_layer} and deeper"
            )
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


def _level(parts: Sequence[Tensor]) -> Tensor:
    """Put tensors one behind the other, padded with zeros to the largest in all other dimensions."""
    if len({part.shape[1:] for part in parts}) == 1:
        return torch.cat(list(parts))
    largest = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    whole = parts[0].new_zeros(sum(map(len, parts)), *largest)
    row = 0
    for part in parts:
        whole[(slice(row, row + len(part)), *(slice(size) for size in part.shape[1:]))] = part
        row += len(part)
    return whole
