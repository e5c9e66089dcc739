"""Qwen3-VL in vLLM, pruned: images and videos.

What is added inside the language model (deepstack) goes with the tokens. Between the frames of a video stands their
time, as text; how many tokens of each frame stay is not known when the prompt is written. So all placeholders of a
video stand in its first frame, and the model hands on the vectors of the text, too, in the order in which they belong.
It is the road of vLLM's own pruning of videos.
"""

# vLLM has an environment of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models.qwen3_vl import (
    Qwen3VLDummyInputsBuilder,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMultiModalProcessor,
    Qwen3VLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from tokensieve.serving.selector import Raster
from tokensieve.vllm.mrope import MropeInfo, MropeProcessor, PrunedMrope


class PrunedQwen3VLInfo(MropeInfo, Qwen3VLProcessingInfo):
    """Knows the model."""


class PrunedQwen3VLProcessor(MropeProcessor, Qwen3VLMultiModalProcessor):
    """Reads requests."""

    def written(self, modality: str, token: int, grid: Raster, read: Any) -> Any:
        """Return what stands for a picture in the prompt: of a video, its frames and their times."""
        kept = self.info.selector.count(grid)
        if modality != "video":
            return [token] * kept
        config, whole = self.info.get_hf_config(), kept == grid.tokens
        own = [kept // grid.frames] * grid.frames if whole else [kept] + [0] * (grid.frames - 1)
        return self.get_video_repl(
            tokens_per_frame=own,
            timestamps=read["timestamps"].data,
            tokenizer=self.info.get_tokenizer(),
            vision_start_token_id=config.vision_start_token_id,
            vision_end_token_id=config.vision_end_token_id,
            video_token_id=token,
            select_token_id=whole,
        )


@MULTIMODAL_REGISTRY.register_processor(
    PrunedQwen3VLProcessor, info=PrunedQwen3VLInfo, dummy_inputs=Qwen3VLDummyInputsBuilder
)
class PrunedQwen3VL(PrunedMrope, Qwen3VLForConditionalGeneration):
    """Qwen3VLForConditionalGeneration of vLLM whose pictures hand on the tokens that a recipe keeps."""

    def handed_on(self, kept: Tensor, ids: Tensor, grid: Raster, timestamps: Any) -> Tensor:
        """Return the vectors that stand for a picture: of a video that loses tokens, with those of the text in it."""
        if timestamps is None or len(ids) == grid.tokens:
            return kept
        frames = torch.bincount(ids // (grid.rows * grid.columns), minlength=grid.frames)
        handed: Tensor = self._create_final_video_embeddings(
            video_embeddings=kept,
            num_tokens_per_frame=frames.tolist(),
            timestamps=timestamps,
            video_grid_thw=list(grid),
            retention_mask=None,
        )
        return handed
