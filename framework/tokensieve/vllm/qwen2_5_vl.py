"""Qwen2.5-VL in vLLM, pruned: images and videos."""

# vLLM has an environment of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

from vllm.model_executor.models.qwen2_5_vl import (
    Qwen2_5_VLDummyInputsBuilder,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLMultiModalProcessor,
    Qwen2_5_VLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from tokensieve.vllm.mrope import MropeInfo, MropeProcessor, PrunedMrope


class PrunedQwen25VLInfo(MropeInfo, Qwen2_5_VLProcessingInfo):
    """Knows the model."""


class PrunedQwen25VLProcessor(MropeProcessor, Qwen2_5_VLMultiModalProcessor):
    """Reads requests."""


@MULTIMODAL_REGISTRY.register_processor(
    PrunedQwen25VLProcessor, info=PrunedQwen25VLInfo, dummy_inputs=Qwen2_5_VLDummyInputsBuilder
)
class PrunedQwen25VL(PrunedMrope, Qwen2_5_VLForConditionalGeneration):
    """Qwen2_5_VLForConditionalGeneration of vLLM whose pictures hand on the tokens that a recipe keeps."""
