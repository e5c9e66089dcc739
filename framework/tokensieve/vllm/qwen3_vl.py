"""Qwen3-VL in vLLM, pruned: images and videos.

What is added inside the language model (deepstack) goes with the tokens. Between the frames of a video stands their
time, as text; how many tokens of each frame stay is not known when the prompt is written. So all placeholders of a
video stand in its first frame, and the model hands on the vectors of the text, too, in the order in which they belong.
It is the road of vLLM's own pruning of videos.
"""

# vLLM has an environment of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Mapping
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

from tokensieve.serving.selector import PictureSelector, Raster
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
        config, whole = self.info.get_hf_config(), _as_vllm(self.info.selector, grid)
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

    def handed_on(self, kept: Tensor, ids: Tensor, grid: Raster, read: Mapping[str, Any]) -> Tensor:
        """Return the vectors that stand for a picture: of a video whose tokens are chosen, with those of its text."""
        if "timestamps" not in read or _as_vllm(self._selector, grid):
            return kept
        frames = torch.bincount(ids // (grid.rows * grid.columns), minlength=grid.frames)
        handed: Tensor = self._create_final_video_embeddings(
            video_embeddings=kept,
            num_tokens_per_frame=frames.tolist(),
            timestamps=read["timestamps"],
            video_grid_thw=list(grid),
            retention_mask=None,
        )
        return handed

    def whole(self, modality: str, grid: Raster, read: Mapping[str, Any]) -> list[int]:
        """Return the ids that would stand for a picture in the prompt if it lost nothing."""
        if modality != "video":
            return super().whole(modality, grid, read)
        written = Qwen3VLMultiModalProcessor.get_video_repl(
            tokens_per_frame=[grid.rows * grid.columns] * grid.frames,
            timestamps=read["timestamps"],
            tokenizer=self._tokenizer,
            vision_start_token_id=self.config.vision_start_token_id,
            vision_end_token_id=self.config.vision_end_token_id,
            video_token_id=self.config.video_token_id,
        )
        return list(written.full)


def _as_vllm(selector: PictureSelector, grid: Raster) -> bool:
    """Return whether a video is written and handed on as without pruning: it loses nothing, and positions need none."""
    return selector.recipe.positions == "compact" and selector.count(grid) == grid.tokens
