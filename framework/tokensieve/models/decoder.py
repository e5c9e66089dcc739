"""`Decoder`: where a family's language model has its visual tokens, and how the family encodes images."""

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
from tokensieve.models.attention import mask_kind
from tokensieve.models.modules import get_module
from tokensieve.models.text_tower import TextTower
from tokensieve.stage import Stage


def projector_input_layers(config: Any, depth: int) -> list[int]:
    """Return the layers of a vision tower, counted from 0, whose outputs the projector takes.

    The config's `vision_feature_layer` counts the embeddings as 0 and the last layer as -1. The default is the last
    layer.

    Args:
        config: of the whole model.
        depth: the number of layers of the tower.
    """
    chosen = getattr(config, "vision_feature_layer", None)
    places = list(chosen) if isinstance(chosen, (list, tuple)) else [-1 if chosen is None else chosen]
    return [depth + place if place < 0 else place - 1 for place in places]


@dataclass(frozen=True)
class Modality:
    """A kind of visual input.

    Attributes:
        name: `image` or `video`, as transformers names it.
        placeholder_id: the id of the placeholder token; a prompt has one for each visual token.
        pixel_argument: the argument of forward that holds the pixels, such as `pixel_values`.
    """

    name: str
    placeholder_id: int
    pixel_argument: str


class Decoder(ABC):
    """A language model whose prompt holds visual tokens among text tokens.

    The defaults fit a transformers model whose base model has `get_image_features` (and `get_video_features`) and a
    `language_model`, and accepts `mm_encoder_outputs`.
    """

    projector_name: ClassVar[str] = "multi_modal_projector"
    """The name of the base model's projector."""
    language_model_name: ClassVar[str] = "language_model"
    """The name of the base model's text model."""
    vision_layers_path: ClassVar[str | None] = None
    """The path from the base model to the vision tower's layers; None if their patches cannot be mapped to tokens."""
    vision_model_types: ClassVar[frozenset[str]] = frozenset()
    """The model types of vision towers, in the config, that have these layers; empty means all."""
    vision_attention_name: ClassVar[str] = "self_attn"
    """The name of the attention module in a vision layer."""
    vision_modalities: ClassVar[frozenset[str]] = frozenset({"image"})
    """The modalities whose patches `patches_to_tokens` can map to tokens."""
    joins_adjacent_tiles: ClassVar[bool] = False
    """Whether tiles of equal rank that are adjacent in a prompt are one image."""
    prefills_from_embeddings: ClassVar[bool] = False
    """Whether a prefill of embeddings, with the features of pictures among them, is that of a prompt with pictures.

    It is not where layers are told which tokens are visual, or where pictures enter deeper layers. `export` asks.
    """

    refused_inputs: ClassVar[Mapping[str, str]] = {}
    """Arguments of forward with which the model cannot be pruned, with the reason."""

    passed_inputs: ClassVar[frozenset[str]] = frozenset()
    """Arguments of forward that bring what is no visual input, such as sound. They are handed on as they are, and the
    tokens of what they bring stay."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @property
    def base_model(self) -> nn.Module:
        """The model without its language-modelling head."""
        return get_module(self.model, "model")

    @property
    def language_model(self) -> nn.Module:
        """The text model."""
        return get_module(self.base_model, self.language_model_name)

    @property
    def first_prunable_layer(self) -> int:
        """The first layer after layer 0 at whose input tokens can be removed."""
        return 1

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The decoder layers of the text model."""
        layers = get_module(self.language_model, "layers")
        return [layers.get_submodule(name) for name, _ in layers.named_children()]

    @property
    def projector(self) -> nn.Module:
        """The module that maps the vision tower's selected layer to the width of the text model."""
        return get_module(self.base_model, self.projector_name)

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
        return get_module(self.layers[block], "self_attn")

    def takes_rotary(self, block: int) -> bool:
        """Return whether a layer's attention takes rotary embeddings as an argument, and so can run without them."""
        try:
            attention = self.attention(block)
        except RefusedError:
            # A recurrent layer, such as linear attention or a short convolution, has no such module.
            return False
        return "position_embeddings" in inspect.signature(attention.forward).parameters

    @property
    def vocabulary_size(self) -> int:
        """The number of rows of the text model's embedding table."""
        return len(self.model.get_input_embeddings().weight)  # type: ignore[operator]

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Return the text model's input embeddings `[..., d]` of token ids."""
        embedding = self.model.get_input_embeddings()  # type: ignore[operator]
        result: Tensor = embedding(ids)
        return result

    def rotary_embeddings(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cosine and sine that layers take as `position_embeddings`, for `positions` `[batch, n]`."""
        rotary = get_module(self.language_model, "rotary_emb")
        cos, sin = rotary(hidden, position_ids=positions)
        return cos, sin

    def position_ids(self, request: Mapping[str, Any], mask: Tensor, start: int, steps: int) -> Tensor:
        """Return the position ids `[..., batch or 1, steps]` that forward computes by default.

        Args:
            request: the arguments of the call.
            mask: bool `[batch, n]`, the attention mask of the prompt.
            start: the number of tokens before this call, including removed ones.
            steps: the number of tokens in this call.
        """
        return torch.arange(start, start + steps, device=mask.device).unsqueeze(0)

    def complete_position_ids(self, positions: Tensor, text: Tensor) -> Tensor:
        """Return the position ids that forward was given, with the axis of text positions.

        Where position ids have several axes, the first is that of text. A family whose forward may be called without
        this axis adds it here.

        Args:
            positions: int64 `[..., batch or 1, n]`, as forward was given them.
            text: int64 `[batch, n]`, the text positions.
        """
        return positions

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The kinds of visual input that the model takes."""
        found = []
        for name, pixels in (("image", "pixel_values"), ("video", "pixel_values_videos")):
            placeholder = getattr(self.config, f"{name}_token_id", None)
            if placeholder is not None and hasattr(self.base_model, f"get_{name}_features"):
                found.append(Modality(name, int(placeholder), pixels))
        return tuple(found)

    def encode_visual_inputs(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the encoder outputs of a request, by modality: those that it holds, or newly encoded ones."""
        given = request.get("mm_encoder_outputs") or {}
        outputs = {name: output for name, output in given.items() if output is not None}
        if outputs:
            return outputs
        for modality in self.modalities:
            if request.get(modality.pixel_argument) is not None:
                taken = {key: request[key] for key in self.encoder_arguments(modality) if request.get(key) is not None}
                outputs[modality.name] = self._encoding_method(modality)(**taken, return_dict=True)
        return outputs

    def encoder_arguments(self, modality: Modality) -> frozenset[str]:
        """Return the arguments of forward that only encoding a modality needs."""
        return frozenset(inspect.signature(self._encoding_method(modality)).parameters) - {"kwargs"}

    def _encoding_method(self, modality: Modality) -> Any:
        return getattr(self.base_model, f"get_{modality.name}_features")

    def split_inputs(self, modality: Modality, inputs: Mapping[str, Any]) -> list[dict[str, Tensor]] | None:
        """Return the encoding inputs of each image or video of a batch, in order, without padding to the others' sizes.

        The default is for tensors with one row for each image.

        Args:
            modality: the kind of visual input.
            inputs: the arguments with which the batch is encoded.

        Returns:
            The arguments of each image, as `collate_inputs` takes them; arguments that belong to no single image are
            left out. None if the images of a batch cannot be separated; their encodings are then not shared.
        """
        tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
        rows = {len(value) if value.ndim else 0 for value in tensors.values()}
        if modality.pixel_argument not in tensors or len(rows) != 1:
            return None
        return [{name: value[row : row + 1] for name, value in tensors.items()} for row in range(rows.pop())]

    def collate_inputs(self, modality: Modality, pictures: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return the inputs that encode several images or videos in one batch.

        Tensors are concatenated along their first dimension. Where other dimensions differ, the smaller ones are padded
        with zeros at the end.

        Args:
            modality: the kind of visual input.
            pictures: the inputs of each image, one or more, as `split_inputs` returns them.
        """
        return {name: _pad_and_concatenate([picture[name] for picture in pictures]) for name in pictures[0]}

    def projected_features(self, output: Any) -> Tensor:
        """Return the projected features `[tokens, d]` in an encoder output, in the order of the placeholders."""
        parts = [item.reshape(-1, item.shape[-1]) for item in output.pooler_output]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def replace_features(self, output: Any, features: Tensor, rows: Tensor) -> Any:
        """Return a copy of an encoder output with fewer tokens.

        Args:
            output: the encoder output of a modality.
            features: `[kept, d]`, the new projected features.
            rows: int64 `[kept]`, the rows of the old projected features that they replace.
        """
        # A tensor has one row for each image; one image that holds all kept tokens is equivalent.
        pooled = features.unsqueeze(0) if isinstance(output.pooler_output, Tensor) else [features]
        # The other fields of the output stay as they are.
        new = copy.copy(output)
        new.pooler_output = pooled
        layers = getattr(output, "deepstack_features", None)
        if layers is not None:
            flat = [layer if isinstance(layer, Tensor) else torch.cat(list(layer)) for layer in layers]
            new.deepstack_features = [[layer[rows.to(layer.device)]] for layer in flat]
        return new

    @property
    def tokens_per_image(self) -> int | None:
        """The number of visual tokens of every image; None if it depends on the image, or the model takes videos."""
        return None

    @property
    def vision_layers(self) -> Sequence[nn.Module]:
        """The vision tower's layers; empty if their patches cannot be mapped to tokens."""
        known = not self.vision_model_types or self.config.vision_config.model_type in self.vision_model_types
        return (
            list(self.base_model.get_submodule(self.vision_layers_path).children())
            if self.vision_layers_path and known
            else ()
        )

    @property
    def selected_vision_layer(self) -> int:
        """The vision layer, counted from 0, whose output the projector takes; the deepest one if it takes several.

        A family whose tower has windowed attention returns the last layer with full attention.
        """
        return max(projector_input_layers(self.config, len(self.vision_layers)))

    @property
    def middle_vision_layer(self) -> int:
        """The vision layer, counted from 0, of the evidence `vision_middle`: 8 of CLIP-L's 24, and in proportion.

        That is the ninth layer, as HiPrune's authors count, who begin with 1.
        """
        return max(0, round(len(self.vision_layers) * 3 / 8) - 1)

    @property
    def num_vision_prefix_tokens(self) -> int:
        """The number of class tokens before the patches in the vision tower."""
        return 0

    def patches_to_tokens(self, values: Tensor, request: Mapping[str, Any], modality: str = "image") -> Tensor:
        """Return values of visual tokens `[tokens, c]`, in the order of the placeholders, from values of patches.

        The default is for families whose tokens are the patches. Where several patches are joined in one token, the
        token gets their mean.

        Args:
            values: `[..., c]`, one for each patch, in the order of the vision tower's layers.
            request: the caller's arguments, with sizes and grids.
            modality: `image` or `video`.
        """
        return values.flatten(0, -2)

    def num_encoder_images(self, modality: str, layouts: Sequence[Tensor], request: Mapping[str, Any]) -> list[int]:
        """Return for each image or video how many rows of the vision encoder's batch it takes: one a tile or frame.

        Args:
            modality: `image` or `video`; the number is 0 if it does not pass through the encoder.
            layouts: what `layout` returned.
            request: the caller's arguments, with sizes and grids.
        """
        return [1] * len(layouts)

    @abstractmethod
    def layout(self, modality: str, output: Any, request: Mapping[str, Any]) -> list[Tensor]:
        """Return the places of the tokens of each image or video, int64 `[tokens, 4]`: tile, frame, row, column.

        The column of a newline token is `NEWLINE`.

        Args:
            modality: `image` or `video`.
            output: the encoder output of the modality; `generate` may have repeated it for beams.
            request: the caller's arguments, with sizes and grids.
        """

    def load_text_tower(self, query_encoder: object) -> TextTower:
        """Load the text tower that shares a space with the vision tower.

        Args:
            query_encoder: a path or a model, as the user passed it to `prune`.

        Raises:
            RefusedError: if the family has no such text tower, or `query_encoder` is not the right one.
        """
        raise RefusedError(f"{type(self.model).__name__} takes no query_encoder; leave it out")

    def refusals(self, stage: Stage) -> list[str]:
        """Return the reasons why this model cannot run the stage; an empty list if it can."""
        block = stage.at.block
        reasons = []
        config = self.text_config
        if 0 < block < self.first_prunable_layer:
            reasons.append(
                f"its vision tower still adds to visual tokens after layer {self.first_prunable_layer - 1}; prune at "
                f"decoder.0, or at decoder.{self.first_prunable_layer} and deeper"
            )
        kinds = set(getattr(config, "layer_types", None) or ())
        if block and (kinds - {"full_attention"} or getattr(config, "sliding_window", None)):
            reasons.append(
                f"its text layers are not all full attention ({', '.join(sorted(kinds)) or 'sliding window'}); "
                "a window counts entries, so pruning inside it changes what it means. Prune at decoder.0"
            )
        implementation = getattr(config, "_attn_implementation", None)
        if block and mask_kind(implementation) is None:
            reasons.append(
                f"its attention implementation is {implementation}; inside the language model only sdpa, eager and "
                "FlashAttention are supported. Load it with attn_implementation='sdpa', or prune at decoder.0"
            )
        return reasons


def _pad_and_concatenate(parts: Sequence[Tensor]) -> Tensor:
    """Return tensors concatenated along the first dimension, padded with zeros at the end of the other dimensions."""
    if len({part.shape[1:] for part in parts}) == 1:
        return torch.cat(list(parts))
    largest = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    whole = parts[0].new_zeros(sum(map(len, parts)), *largest)
    row = 0
    for part in parts:
        whole[(slice(row, row + len(part)), *(slice(size) for size in part.shape[1:]))] = part
        row += len(part)
    return whole
