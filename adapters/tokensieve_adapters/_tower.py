"""Vision towers of CLIP's and SigLIP's build, and what becomes of their patches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from tokensieve.errors import RefusedError
from tokensieve.models.decoder import Decoder, projected_layers
from tokensieve.models.encoder import Encoder
from tokensieve.models.layouts import raster
from tokensieve.models.text_tower import TextTower
from tokensieve.stage import Stage
from tokensieve_adapters._text_tower import load_partner

CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}
"""How many class tokens stand before the patches, by the tower's model type."""


def joined(values: Tensor, rows: int, columns: int, factor: int) -> Tensor:
    """Return the mean over squares of `factor` x `factor` patches, `[tokens, c]`, row by row.

    Args:
        values: `[patches, c]` of pictures of one size, each row by row.
        rows: how many a picture has, of patches.
        columns: likewise.
        factor: how many patches a square has on each side.
    """
    if len(values) % (rows * columns):
        raise RefusedError(
            f"the vision tower saw {len(values)} patches, which are no whole pictures of {rows} x {columns}; "
            "pass pictures as the model's own processor makes them"
        )
    squares = values.reshape(-1, rows // factor, factor, columns // factor, factor, values.shape[-1])
    return squares.mean(dim=(2, 4)).flatten(0, -2)


class TowerDecoder(Decoder):
    """Tokens are patches of a tower that may share a space with a text tower."""

    vision_path = "vision_tower.encoder.layers"
    vision_types = frozenset(CLASS_TOKENS)

    @property
    def vision_prefix(self) -> int:
        """One class token in CLIP, none in SigLIP."""
        return CLASS_TOKENS.get(self.config.vision_config.model_type, 0)

    def text_tower(self, query_encoder: object) -> TextTower:
        """Load the CLIP or SigLIP model whose vision tower this is."""
        return load_partner(query_encoder, self.config.vision_config, self.base.get_submodule(str(self.vision_path)))


class SquaresDecoder(Decoder):
    """Square pictures of one size, of whose patches squares are joined in tokens."""

    vision_path = "vision_tower.encoder.layers"
    vision_types = frozenset({"siglip_vision_model"})

    @property
    def factor(self) -> int:
        """How many patches a token has on each side."""
        return int(self.config.downsample_factor)

    def patches_to_tokens(self, values: Tensor, request: Mapping[str, Any], modality: str = "image") -> Tensor:
        """Return the mean over the patches of each token."""
        vision = self.config.vision_config
        (height, width), (tall, wide) = (
            size if isinstance(size, (list, tuple)) else (size, size) for size in (vision.image_size, vision.patch_size)
        )
        return joined(values.flatten(0, -2), height // tall, width // wide, self.factor)


class TowerEncoder(Encoder):
    """Layers of a CLIP or SigLIP tower of a model that answers in words.

    Where tokens are patches, those that leave the tower leave the prompt with it. Everywhere else the tower's output
    must be a whole grid, so tokens can only be merged: every patch then has the vector of the token it is part of,
    and the tower alone computes on fewer.
    """

    shortens_sequence = False

    @property
    def tower(self) -> nn.Module:
        """The vision tower of pictures."""
        return self.model.get_submodule("model.vision_tower")

    @property
    def _layers(self) -> nn.Module:
        return self.tower.get_submodule("encoder.layers")

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The layers."""
        return list(self._layers.children())

    @property
    def depth(self) -> int:
        """All up to the first layer that the projector takes: what left after it would still be there."""
        return min(projected_layers(self.model.config, len(self.blocks))) + 1

    @property
    def prefix(self) -> int:
        """One class token in CLIP, none in SigLIP."""
        config: Any = self.tower.config
        return CLASS_TOKENS[config.model_type]

    def layout(self, n: int) -> Tensor:
        """Lay a square of patches out row by row."""
        return raster(side := math.isqrt(n), side)

    def attention_input(self, block: int, x: Tensor) -> Tensor:
        """Return the layer's first norm."""
        result: Tensor = self._part(block, "layer_norm1")(x)
        return result

    def attention_block(self, block: int, x: Tensor, bias: Tensor | None, kwargs: dict[str, Any]) -> Tensor:
        """Return the first half of a layer."""
        given = kwargs | {"hidden_states": self.attention_input(block, x), "attention_mask": bias}
        added: Tensor = self.attention(block)(**given)[0]
        return x + added

    def mlp_block(self, block: int, x: Tensor) -> Tensor:
        """Return the second half."""
        added: Tensor = self._part(block, "mlp")(self._part(block, "layer_norm2")(x))
        return x + added

    def attention(self, block: int) -> nn.Module:
        """Return a layer's attention."""
        return self._part(block, "self_attn")

    def width(self, block: int) -> int:
        """Return the width of its heads."""
        config: Any = self.tower.config
        return int(config.hidden_size)

    def key_projection(self, block: int) -> nn.Module:
        """The projection to keys."""
        return self._part(block, "self_attn.k_proj")

    def keys(self, block: int, projected: Tensor) -> Tensor:
        """Average over heads."""
        heads: Any = self.attention(block).num_heads
        mean: Tensor = projected.unflatten(-1, (heads, -1)).mean(dim=-2)
        return mean

    def _part(self, block: int, name: str) -> nn.Module:
        return self._layers.get_submodule(f"{block}.{name}")

    def refuses(self, stage: Stage) -> list[str]:
        """Refuse what the base class does, and what this tower cannot be given."""
        reasons = super().refuses(stage)
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


class PatchEncoder(TowerEncoder):
    """A tower of which every patch is one token of the prompt."""

    prunes_prompt = True
