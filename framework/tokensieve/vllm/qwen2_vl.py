"""Qwen2-VL in vLLM, pruned: images and videos."""

# vLLM has an environment of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

from vllm.model_executor.layers.rotary_embedding import get_rope
from vllm.model_executor.models.qwen2_vl import (
    Qwen2VLDummyInputsBuilder,
    Qwen2VLForConditionalGeneration,
    Qwen2VLMultiModalProcessor,
    Qwen2VLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from tokensieve.vllm.mrope import MropeInfo, MropeProcessor, PrunedMrope


class PrunedQwen2VLInfo(MropeInfo, Qwen2VLProcessingInfo):
    """Knows the model."""


class PrunedQwen2VLProcessor(MropeProcessor, Qwen2VLMultiModalProcessor):
    """Reads requests."""


@MULTIMODAL_REGISTRY.register_processor(
    PrunedQwen2VLProcessor, info=PrunedQwen2VLInfo, dummy_inputs=Qwen2VLDummyInputsBuilder
)
class PrunedQwen2VL(PrunedMrope, Qwen2VLForConditionalGeneration):
    """Qwen2VLForConditionalGeneration of vLLM whose pictures hand on the tokens that a recipe keeps."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        base = (getattr(self.config.vision_config, "rope_parameters", None) or {}).get("rope_theta")
        if base is not None:
            # transformers reads it from the config; vLLM has the one of released checkpoints.
            self.visual.rotary_pos_emb = get_rope(
                head_size=self.visual.embed_dim // self.visual.num_heads,
                max_position=8192,
                is_neox_style=True,
                rope_parameters={"partial_rotary_factor": 0.5, "rope_theta": base},
            )
