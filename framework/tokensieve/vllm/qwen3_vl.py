"""Qwen3-VL in vLLM, pruned: images. What is added inside the language model (deepstack) goes with the tokens."""

# vLLM has an environment of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

from vllm.model_executor.models.qwen3_vl import (
    Qwen3VLDummyInputsBuilder,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMultiModalProcessor,
    Qwen3VLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from tokensieve.vllm.mrope import MropeInfo, MropeProcessor, PrunedMrope


class PrunedQwen3VLInfo(MropeInfo, Qwen3VLProcessingInfo):
    """Knows the model."""


class PrunedQwen3VLProcessor(MropeProcessor, Qwen3VLMultiModalProcessor):
    """Reads requests."""


@MULTIMODAL_REGISTRY.register_processor(
    PrunedQwen3VLProcessor, info=PrunedQwen3VLInfo, dummy_inputs=Qwen3VLDummyInputsBuilder
)
class PrunedQwen3VL(PrunedMrope, Qwen3VLForConditionalGeneration):
    """Qwen3VLForConditionalGeneration of vLLM whose pictures hand on the tokens that a recipe keeps."""
