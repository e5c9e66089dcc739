"""What families with a CLIP or SigLIP vision tower share: its layers, and how its patches become tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from tokensieve.errors import RefusedError
from tokensieve.models.decoder import Decoder, projector_input_layers
from tokensieve.models.encoder import Encoder
from tokensieve.models.layouts import raster
from tokensieve.models.text_tower import TextTower
from tokensieve.stage import Stage
from tokensieve_adapters._text_tower import load_contrastive_text_tower

NUM_CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}
"""The number of class tokens before the patches, by the model type of the vision tower."""


def mean_over_squares(values: Tensor, rows: int, columns: int, side: int) -> Tensor:
    """Return the mean over squares of `side` x `side` patches, `[tokens, c]`, row by row.

    Args:
        values: `[patches, c]`, of images of one size, row by row.
        rows: rows of patches in an image.
        columns: columns of patches in an image.
        side: patches on each side of a square.
    """
    if len(values) % (rows * columns):
        raise RefusedError(
            f"the vision tower saw {len(values)} patches, which are no whole pictures of {rows} x {columns}; "
            "pass pictures as the model's own processor makes them"
        )
    squares = values.reshape(-1, rows // side, side, columns // side, side, values.shape[-1])
    return squares.mean(dim=(2, 4)).flatten(0, -2)


class TowerDecoder(Decoder):
    """Every token is one patch of a CLIP or SigLIP tower, which may share a space with a text tower."""

    vision_layers_path = "vision_tower.encoder.layers"
    vision_model_types = frozenset(NUM_CLASS_TOKENS)

    @property
    def num_vision_prefix_tokens(self) -> int:
        """1 in CLIP, which has a class token; 0 in SigLIP."""
        return NUM_CLASS_TOKENS.get(self.config.vision_config.model_type, 0)

    def load_text_tower(self, query_encoder: object) -> TextTower:
        """Load the text tower of the CLIP or SigLIP model that this vision tower is from."""
        return load_contrastive_text_tower(
            query_encoder, self.config.vision_config, self.base_model.get_submodule(str(self.vision_layers_path))
        )


class MergedPatchesDecoder(Decoder):
    """Square images of one size; every token is a square of patches."""

    vision_layers_path = "vision_tower.encoder.layers"
    vision_model_types = frozenset({"siglip_vision_model"})

    @property
    def merge_size(self) -> int:
        """The number of patches on each side of a token."""
        return int(self.config.downsample_factor)

    def patches_to_tokens(self, values: Tensor, request: Mapping[str, Any], modality: str = "image") -> Tensor:
        """Return the mean over the patches of each token."""
        vision = self.config.vision_config
        (height, width), (tall, wide) = (
            size if isinstance(size, (list, tuple)) else (size, size) for size in (vision.image_size, vision.patch_size)
        )
        return mean_over_squares(values.flatten(0, -2), height // tall, width // wide, self.merge_size)


class TowerEncoder(Encoder):
    """The layers of the CLIP or SigLIP tower of a model with a language model.

    The output of the tower must be a whole grid, so tokens can only be merged: every patch gets the vector of the token
    that it was merged into, and only the tower computes on fewer tokens.
    """

    shortens_sequence = False

    @property
    def tower(self) -> nn.Module:
        """The vision tower for images."""
        return self.model.get_submodule("model.vision_tower")

    @property
    def _layers(self) -> nn.Module:
        return self.tower.get_submodule("encoder.layers")

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The layers of the tower."""
        return list(self._layers.children())

    @property
    def num_prunable_blocks(self) -> int:
        """The number of layers up to the first one that the projector reads; later removals would not reach it."""
        return min(projector_input_layers(self.model.config, len(self.blocks))) + 1

    @property
    def num_prefix_tokens(self) -> int:
        """1 in CLIP, which has a class token; 0 in SigLIP."""
        config: Any = self.tower.config
        return NUM_CLASS_TOKENS[config.model_type]

    @property
    def _side(self) -> int:
        config: Any = self.tower.config
        return int(config.image_size // config.patch_size)

    @property
    def patches_per_image(self) -> int:
        """The number of patches of images of the tower's own size, which processors make."""
        return self._side**2

    def layout(self, n: int) -> Tensor:
        """Return the layout of images of the tower's own size, row by row.

        Raises:
            RefusedError: if these are other images.
        """
        side = self._side
        if side * side != n:
            raise RefusedError(f"where {n} patches are is not known: the tower's own grid is {side} x {side}")
        return raster(side, side)

    @property
    def patch_embedding(self) -> nn.Module:
        """The convolution that embeds patches; with interpolated positions images have any shape."""
        return self.tower.get_submodule("embeddings.patch_embedding")

    def attention_input(self, block: int, x: Tensor) -> Tensor:
        """Return the output of the layer's first norm."""
        result: Tensor = self._part(block, "layer_norm1")(x)
        return result

    def attention_block(self, block: int, x: Tensor, bias: Tensor | None, kwargs: dict[str, Any]) -> Tensor:
        """Return the layer's input plus its attention."""
        given = kwargs | {"hidden_states": self.attention_input(block, x), "attention_mask": bias}
        added: Tensor = self.attention(block)(**given)[0]
        return x + added

    def mlp_block(self, block: int, x: Tensor) -> Tensor:
        """Return `x` plus the output of the layer's MLP."""
        added: Tensor = self._part(block, "mlp")(self._part(block, "layer_norm2")(x))
        return x + added

    def attention(self, block: int) -> nn.Module:
        """Return the attention module of a layer."""
        return self._part(block, "self_attn")

    def attention_width(self, block: int) -> int:
        """Return the width of all heads together, which is the hidden size."""
        config: Any = self.tower.config
        return int(config.hidden_size)

    def key_projection(self, block: int) -> nn.Module:
        """Return the projection to keys."""
        return self._part(block, "self_attn.k_proj")

    def mean_keys(self, block: int, projected: Tensor) -> Tensor:
        """Return the mean of the keys over heads."""
        heads: Any = self.attention(block).num_heads
        mean: Tensor = projected.unflatten(-1, (heads, -1)).mean(dim=-2)
        return mean

    def _part(self, block: int, name: str) -> nn.Module:
        return self._layers.get_submodule(f"{block}.{name}")

    def refusals(self, stage: Stage) -> list[str]:
        """Return the reasons of the base class, and those of this tower."""
        reasons = super().refusals(stage)
        if stage.rest == "drop" and not self.prunes_prompt:
            reasons.append(
                "what follows its tower needs every patch of the grid, so tokens cannot be dropped inside it; say "
                "rest: merge, which saves the tower's own work, or prune at decoder.0"
            )
        implementation = getattr(self.tower.config, "_attn_implementation", None)
        if stage.rest == "merge" and implementation not in ("sdpa", "eager"):
            reasons.append(
                f"the attention implementation of its tower is {implementation}, which takes no weights of merged "
                "tokens; load it with attn_implementation='sdpa'"
            )
        if any(getattr(part, "gradient_checkpointing", False) for part in self.tower.modules()):
            reasons.append("gradient checkpointing runs the tower's layers twice; turn it off")
        return reasons


class PatchTokenEncoder(TowerEncoder):
    """A tower whose every patch is one token of the prompt, so that dropping a patch removes that token."""

    prunes_prompt = True
