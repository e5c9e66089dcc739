"""The thinkers of Qwen2.5-Omni and Qwen3-Omni: towers of Qwen2.5-VL and Qwen3-VL, with sound in the prompt, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tokensieve_adapters import _tiny
from tokensieve_adapters._mrope import VISION_TOKENS, InterpolatedTower, MropeAdapter, MropeDecoder
from tokensieve_adapters._qwen_vl import WINDOWS, DeepstackDecoder, WindowedDecoder, WindowedTower, deepstack_settings

_HEARING: dict[str, Any] = {
    "num_mel_bins": 8,
    "d_model": 16,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "output_dim": 48,
    "max_source_positions": 64,
}
"""Settings of a small tower for sound."""


class HeardDecoder(MropeDecoder):
    """Positions depend on how long sounds are, too."""

    passed_inputs = frozenset({"input_features", "feature_attention_mask"})

    def position_ids(self, request: Mapping[str, Any], mask: Tensor, start: int, steps: int) -> Tensor:
        """Return the position ids `[4, batch, steps]`: text, time, height, width."""
        heard = request.get("feature_attention_mask")
        lengths = None if heard is None else {"audio_feature_lengths": heard.sum(dim=1)}
        return super().position_ids({**request, **(lengths or {})}, mask, start, steps)


class HeardAdapter(MropeAdapter):
    """A family with sound. Tokens of images and videos are chosen from; those of sound stay."""

    @classmethod
    def aligned_inputs(cls, model: nn.Module, ids: Tensor, num_generated: int = 0) -> dict[str, Tensor]:
        """Return nothing: the model finds images and videos by their placeholders alone."""
        return {}

    @classmethod
    def reserved_token_ids(cls, model: nn.Module) -> tuple[int, ...]:
        """Return the ids of sound, of its ends, and of the beginning of an image, after which positions expect one."""
        names = ("audio_token_id", "audio_start_token_id", "audio_end_token_id", "vision_start_token_id")
        found = (getattr(model.config, name, None) for name in names)
        return tuple(one for one in found if isinstance(one, int))


class Qwen25OmniDecoder(HeardDecoder, WindowedDecoder):
    """The decoder of Qwen2.5-VL, with sound."""


class Qwen25OmniAdapter(HeardAdapter):
    """Qwen2_5OmniThinkerForConditionalGeneration."""

    name = "qwen2_5_omni"
    model_types = ("qwen2_5_omni_thinker",)
    decoder_type = Qwen25OmniDecoder
    packed_tower_type = WindowedTower

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with a few tokens an image, windows in its vision tower, and a small tower for sound."""
        from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

        rope = {"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 10000.0}
        config = Qwen2_5OmniThinkerConfig(
            text_config=_tiny.text(vocab_size=_tiny.VOCABULARY_SIZE + 3, rope_parameters=rope),
            vision_config=WINDOWS,
            audio_config=_HEARING | {"n_window": 4},
            audio_token_index=_tiny.VOCABULARY_SIZE,
            audio_start_token_id=_tiny.VOCABULARY_SIZE + 1,
            audio_end_token_id=_tiny.VOCABULARY_SIZE + 2,
            position_id_per_seconds=25,
            **VISION_TOKENS,
        )
        model: nn.Module = Qwen2_5OmniThinkerForConditionalGeneration(config).eval()
        return model


class Qwen3OmniDecoder(HeardDecoder, DeepstackDecoder):
    """The decoder of Qwen3-VL, with sound."""


class Qwen3OmniAdapter(HeardAdapter):
    """Qwen3OmniMoeThinkerForConditionalGeneration."""

    name = "qwen3_omni_moe"
    model_types = ("qwen3_omni_moe_thinker",)
    decoder_type = Qwen3OmniDecoder
    packed_tower_type = InterpolatedTower

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with two of four experts for each token in a layer, deepstack, and a small tower for sound."""
        from transformers import Qwen3OmniMoeThinkerConfig, Qwen3OmniMoeThinkerForConditionalGeneration

        settings = deepstack_settings(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)
        text = settings["text_config"]
        text["vocab_size"] += 3
        config = Qwen3OmniMoeThinkerConfig(
            text_config=text,
            vision_config=settings["vision_config"],
            audio_config=_HEARING | {"downsample_hidden_size": 8},
            audio_token_id=_tiny.VOCABULARY_SIZE,
            audio_start_token_id=_tiny.VOCABULARY_SIZE + 1,
            **VISION_TOKENS,
        )
        model: nn.Module = Qwen3OmniMoeThinkerForConditionalGeneration(config).eval()
        return model
