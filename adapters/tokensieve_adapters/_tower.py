"""Vision towers of CLIP's and SigLIP's build, whose patches are the tokens."""

from __future__ import annotations

from torch import nn

from tokensieve.adapter import Decoder, Partner
from tokensieve_adapters._partner import load_partner

CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}
"""How many class tokens stand before the patches, by the tower's model type."""


class TowerDecoder(Decoder):
    """Tokens are patches of a tower that may share a space with a text tower."""

    @property
    def vision_attention(self) -> nn.Module | None:
        """That of the layer whose output the projector takes; of several layers, the deepest.

        `vision_feature_layer` counts the embeddings as 0, and -1 is the last layer, which is also
        taken where the config says nothing.
        """
        if self.config.vision_config.model_type not in CLASS_TOKENS:
            return None
        layers = self.base.get_submodule("vision_tower.encoder.layers")
        depth = len(list(layers.children()))
        chosen = getattr(self.config, "vision_feature_layer", None)
        places = list(chosen) if isinstance(chosen, (list, tuple)) else [-1 if chosen is None else chosen]
        deepest = max(depth + place if place < 0 else place - 1 for place in places)
        return layers.get_submodule(f"{deepest}.self_attn")

    @property
    def vision_prefix(self) -> int:
        """One class token in CLIP, none in SigLIP."""
        return CLASS_TOKENS.get(self.config.vision_config.model_type, 0)

    def partner(self, query_encoder: object) -> Partner:
        """Load the CLIP or SigLIP model whose vision tower this is."""
        return load_partner(query_encoder, self.config.vision_config)
