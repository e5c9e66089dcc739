"""Families that cannot be pruned. `prune` refuses their models with the reason that is written here."""

from __future__ import annotations

from torch import nn

from tokensieve.models.adapter import Adapter
from tokensieve_adapters import _tiny


class Llama4Adapter(Adapter):
    """Llama4ForConditionalGeneration."""

    name = "llama4"
    model_types = ("llama4",)
    refusal_reason = (
        "its forward projects encoded images itself, so that it cannot be given fewer tokens of them, and its layers "
        "without positions scale attention by the cache's length, which pruning changes; run it unpruned"
    )

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with one expert for each token."""
        from transformers import Llama4Config, Llama4ForConditionalGeneration

        tower = {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32}
        config = Llama4Config(
            vision_config=_tiny.vision(intermediate_size=128, **tower),
            text_config=_tiny.text(head_dim=12, intermediate_size_mlp=96, num_local_experts=2, attention_chunk_size=64),
            image_token_index=_tiny.IMAGE,
        )
        model: nn.Module = Llama4ForConditionalGeneration(config).eval()
        return model


class MllamaAdapter(Adapter):
    """MllamaForConditionalGeneration (Llama 3.2 Vision)."""

    name = "mllama"
    model_types = ("mllama",)
    refusal_reason = (
        "its images are not in the prompt: some layers have cross-attention to them, so there are no visual tokens in "
        "the sequence that could be removed; run it unpruned"
    )

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with cross-attention to images in one layer."""
        from transformers import MllamaConfig, MllamaForConditionalGeneration

        tower = _tiny.vision(
            attention_heads=4,
            num_global_layers=1,
            vision_output_dim=64,
            max_num_tiles=1,
            supported_aspect_ratios=[[1, 1]],
            intermediate_layers_indices=[1],
        )
        rope = {"rope_type": "default", "rope_theta": 10000.0}
        config = MllamaConfig(
            vision_config=tower,
            text_config=_tiny.text(cross_attention_layers=[1], rope_parameters=rope),
            image_token_index=_tiny.IMAGE,
        )
        model: nn.Module = MllamaForConditionalGeneration(config).eval()
        return model


class InstructBlipAdapter(Adapter):
    """InstructBlipForConditionalGeneration and Blip2ForConditionalGeneration."""

    name = "instructblip"
    model_types = ("instructblip", "blip-2")
    refusal_reason = (
        "its Q-Former turns every image into a small fixed number of query tokens, which have no place in the image; "
        "they are few already, so run it unpruned"
    )

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with four query tokens an image."""
        from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration, LlamaConfig

        config = InstructBlipConfig(
            vision_config=_tiny.vision(),
            qformer_config={
                "vocab_size": _tiny.VOCABULARY_SIZE,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "encoder_hidden_size": 32,
            },
            text_config=LlamaConfig(**_tiny.text()).to_dict(),
            num_query_tokens=4,
            image_token_index=_tiny.IMAGE,
        )
        model: nn.Module = InstructBlipForConditionalGeneration(config).eval()
        return model
