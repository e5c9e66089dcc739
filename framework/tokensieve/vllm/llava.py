"""LLaVA-1.5 in vLLM, pruned: how many tokens stay is written into the prompt; which, is chosen after the projector."""

# vLLM has an environment of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

import math
import re
from typing import Any

from torch import Tensor
from vllm.model_executor.models.llava import (
    LlavaDummyInputsBuilder,
    LlavaForConditionalGeneration,
    LlavaMultiModalProcessor,
    LlavaProcessingInfo,
)
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY

from tokensieve.errors import RefusedError
from tokensieve.serving.selector import Raster
from tokensieve.vllm.requests import QUESTION_IDS, PrunedInfo, PrunedProcessor
from tokensieve.vllm.serving import selector_of

# transformers 5 saves CLIP towers without `vision_model.`, and vLLM 0.32 knows names with it alone.
WEIGHTS = WeightsMapper(
    orig_to_new_regex={re.compile(r"^(?:model\.)?vision_tower\.(?:vision_model\.)?"): "vision_tower.vision_model."},
    orig_to_new_prefix={
        "model.language_model.": "language_model.model.",
        "model.multi_modal_projector.": "multi_modal_projector.",
        "model.image_newline": "image_newline",
        "lm_head.": "language_model.lm_head.",
    },
)
"""Names of weights in checkpoints of LLaVA, and those that vLLM has for them."""


def grid_of(tokens: int) -> Raster:
    """Return the grid of a picture with so many tokens.

    Raises:
        RefusedError: if it is no square.
    """
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise RefusedError(
            f"a picture has {tokens} visual tokens, which is no square grid; with vision_feature_select_strategy="
            "'full' the class token is among them, so use 'default'"
        )
    return Raster(1, side, side)


class LlavaInfo(PrunedInfo):
    """Knows the id of placeholders."""

    @property
    def placeholders(self) -> list[int]:
        """The id that stands for visual tokens in a prompt."""
        return [self.get_hf_config().image_token_index]


class PrunedLlavaInfo(LlavaInfo, LlavaProcessingInfo):
    """Counts the tokens that stay."""

    def get_num_image_tokens(self, *, image_width: int, image_height: int) -> int:
        """Return how many tokens of a picture stay; vLLM writes as many placeholders."""
        tokens = super().get_num_image_tokens(image_width=image_width, image_height=image_height)
        return self.selector.count(grid_of(tokens))


class PrunedLlavaProcessor(PrunedProcessor, LlavaMultiModalProcessor):
    """Reads requests."""


@MULTIMODAL_REGISTRY.register_processor(
    PrunedLlavaProcessor, info=PrunedLlavaInfo, dummy_inputs=LlavaDummyInputsBuilder
)
class PrunedLlava(LlavaForConditionalGeneration):
    """LlavaForConditionalGeneration of vLLM whose pictures hand on the tokens that a recipe keeps."""

    hf_to_vllm_mapper = WEIGHTS

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self._selector = selector_of(self.config)

    def embed_multimodal(self, **kwargs: object) -> Any:
        """Return the vectors that stay of each picture, `[kept, d]`."""
        questions = kwargs.pop(QUESTION_IDS["image"], None)
        features = super().embed_multimodal(**kwargs)
        if len(features) == 0:
            return features
        selected = self._selector.select(features, grid_of(features.shape[1]), self._embedded(questions))
        return selected.features

    def _embedded(self, questions: Any) -> list[Tensor] | None:
        if questions is None:
            return None
        return [self.language_model.embed_input_ids(one) for one in questions]
