"""LLaVA-NeXT in vLLM, pruned: the whole image and tiles of it, with newline tokens and without padding."""

# vLLM has an environment of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape
from vllm.model_executor.models.llava import LlavaDummyInputsBuilder
from vllm.model_executor.models.llava_next import (
    LlavaNextForConditionalGeneration,
    LlavaNextMultiModalProcessor,
    LlavaNextProcessingInfo,
)
from vllm.model_executor.models.vision import get_num_selected_vision_tokens
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.parse import ImageSize

from tokensieve.models.layouts import tiled
from tokensieve.serving.selector import PictureLayout
from tokensieve.vllm.llava import WEIGHTS, LlavaInfo, grid_of
from tokensieve.vllm.requests import QUESTION_IDS, PrunedProcessor
from tokensieve.vllm.serving import selector_of


def layout_of(config: Any, height: int, width: int) -> PictureLayout:
    """Return the layout of a picture, as vLLM packs its features.

    Args:
        config: of the model.
        height: of the picture, in pixels, before it is cut.
        width: likewise.
    """
    vision = config.vision_config
    pinpoints = tuple((int(rows), int(columns)) for rows, columns in config.image_grid_pinpoints)
    return _layout(vision.image_size, vision.patch_size, pinpoints, height, width)


@lru_cache(maxsize=256)
def _layout(tile: int, patch: int, pinpoints: tuple[tuple[int, int], ...], height: int, width: int) -> PictureLayout:
    vision = SimpleNamespace(image_size=tile, patch_size=patch)
    config = SimpleNamespace(vision_config=vision, image_grid_pinpoints=[list(one) for one in pinpoints])

    def pack(places: Tensor, newline: Tensor) -> Tensor:
        # All that vLLM's own packing reads of a model.
        model: Any = SimpleNamespace(config=config, image_newline=newline)
        packed: Tensor = LlavaNextForConditionalGeneration._merge_image_patch_embeddings(
            model, torch.tensor([height, width]), places, strategy="spatial_unpad"
        )
        return packed

    rows, columns = get_anyres_image_grid_shape((height, width), config.image_grid_pinpoints, tile)
    with torch.inference_mode(False), torch.no_grad():
        return PictureLayout(tiled(tile // patch, 1 + rows * columns, columns, pack))


class PrunedLlavaNextInfo(LlavaInfo, LlavaNextProcessingInfo):
    """Counts the tokens that stay."""

    def get_num_image_tokens(self, *, image_width: int, image_height: int) -> int:
        """Return how many tokens of a picture stay; vLLM writes as many placeholders.

        Raises:
            RefusedError: if the whole image is no square grid.
        """
        config, tower = self.get_hf_config(), self.get_vision_encoder_info()
        tokens = tower.get_num_image_tokens(image_width=image_width, image_height=image_height)
        grid_of(get_num_selected_vision_tokens(tokens, config.vision_feature_select_strategy))
        return self.selector.count(layout_of(config, image_height, image_width))

    def get_image_size_with_most_features(self) -> ImageSize:
        """Return the size of picture of which most tokens stay, and of these, the one with most tokens.

        Memory is measured by it; a picture as large as its tiles has no padding.
        """
        config = self.get_hf_config()

        def tokens(size: tuple[int, int]) -> tuple[int, int]:
            layout = layout_of(config, *size)
            return self.selector.count(layout), layout.tokens

        height, width = max(config.image_grid_pinpoints, key=tokens)
        return ImageSize(width=width, height=height)


class PrunedLlavaNextProcessor(PrunedProcessor, LlavaNextMultiModalProcessor):
    """Reads requests."""


@MULTIMODAL_REGISTRY.register_processor(
    PrunedLlavaNextProcessor, info=PrunedLlavaNextInfo, dummy_inputs=LlavaDummyInputsBuilder
)
class PrunedLlavaNext(LlavaNextForConditionalGeneration):
    """LlavaNextForConditionalGeneration of vLLM whose pictures hand on the tokens that a recipe keeps."""

    hf_to_vllm_mapper = WEIGHTS

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self._selector = selector_of(self.config)

    def embed_multimodal(self, **kwargs: object) -> Any:
        """Return the vectors that stay of each picture, `[kept, d]`."""
        asked: Any = kwargs.pop(QUESTION_IDS["image"], None)
        sizes: Any = kwargs.get("image_sizes")
        features = super().embed_multimodal(**kwargs)
        if len(features) == 0:
            return features
        layouts = [layout_of(self.config, height, width) for height, width in sizes.tolist()]
        questions = None if asked is None else [self.language_model.embed_input_ids(one) for one in asked]
        return tuple(kept for kept, _ in self._selector.select_each(features, layouts, questions))
