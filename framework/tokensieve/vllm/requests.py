"""How requests are read, for all families: a placeholder for each token that stays, and questions beside pictures."""

# vLLM has an environment of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import DictEmbeddingItems, EmbeddingItems
from vllm.multimodal.processing import BaseMultiModalProcessor, BaseProcessingInfo
from vllm.multimodal.processing.inputs import ProcessorInputs

from tokensieve.engine.question import questions
from tokensieve.serving.selector import PictureSelector
from tokensieve.vllm.overrides import QUESTION
from tokensieve.vllm.serving import question_of, selector_of

PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}
"""The argument of `embed_multimodal` that holds the pixels of each kind of pictures."""
QUESTION_IDS = {"image": "image_question_ids", "video": "video_question_ids"}
"""The argument of `embed_multimodal` that holds the question of each picture, as token ids."""


@dataclass
class _Measured(ProcessorInputs):
    """Pictures by which vLLM measures memory; they are no request."""


class PrunedInfo(BaseProcessingInfo):
    """What a processor knows of its model."""

    @cached_property
    def selector(self) -> PictureSelector:
        """What selects for the model."""
        return selector_of(self.get_hf_config())

    @property
    def placeholders(self) -> list[int]:
        """The ids that stand for visual tokens in a prompt."""
        raise NotImplementedError

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Return how many pictures of each kind a prompt may have; vLLM refuses the others."""
        served = self.selector.family.modalities
        limits = super().get_supported_mm_limits()
        return {name: limit if name in served else 0 for name, limit in limits.items()}

    def get_hf_processor(self, **kwargs: object) -> Any:
        """Return the processor; it knows nothing of questions, and would be made anew for each."""
        return super().get_hf_processor(**_without_question(kwargs))


class PrunedProcessor(BaseMultiModalProcessor[Any]):
    """Reads the pictures of a request, and writes as many placeholders as tokens stay."""

    def get_dummy_inputs(self, *args: Any, **kwargs: Any) -> ProcessorInputs:
        """Return pictures by which memory is measured."""
        made = super().get_dummy_inputs(*args, **kwargs)
        question = {QUESTION: "?"} if self.info.selector.reads_questions else {}
        return _Measured(made.prompt, made.mm_data_items, hf_processor_mm_kwargs=question)

    def apply(self, inputs: ProcessorInputs, timing_ctx: Any) -> Any:
        """Read a request.

        Raises:
            ValueError: if it cannot be served as `prune` would; vLLM answers with the message.
        """
        items = inputs.mm_data_items
        for modality, own in items.items():
            if isinstance(own, (EmbeddingItems, DictEmbeddingItems)):
                raise ValueError(
                    f"the request brings {modality} embeddings, whose tokens a recipe cannot be shown to know the "
                    "places of; send pictures"
                )
        if not isinstance(inputs, _Measured):
            given, pictures = inputs.hf_processor_mm_kwargs, sum(items.get_all_counts().values())
            question = question_of(self.info.selector, given, pictures, lambda: self._question_in(inputs.prompt))
            if question is not None:
                inputs = replace(inputs, hf_processor_mm_kwargs={**given, QUESTION: question})
        return super().apply(inputs, timing_ctx)

    def _question_in(self, prompt: list[int]) -> str:
        """Return the question in a prompt, as `prune` reads it with the checkpoint's processor."""
        ids = torch.tensor([prompt], dtype=torch.int64)
        words = ~torch.isin(ids, torch.tensor(self.info.placeholders, dtype=torch.int64))
        return questions(self.info.get_hf_processor(), ids, words)[0]

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> Any:
        # transformers' processor knows nothing of questions.
        processed = super()._apply_hf_processor_main(mm_items, _without_question(hf_kwargs))
        question = hf_kwargs.get(QUESTION)
        if question is None:
            return processed
        words = self.info.get_tokenizer()(question, add_special_tokens=False)["input_ids"]
        ids = torch.tensor(words, dtype=torch.int64)
        for modality, pixels in PIXELS.items():
            if pixels in processed:
                # Rows of patches belong to pictures by their grids.
                pictures = len(processed.get(f"{modality}_grid_thw", processed[pixels]))
                processed[QUESTION_IDS[modality]] = ids.expand(pictures, -1).contiguous()
        return processed

    def _get_mm_fields_config(
        self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        fields = dict(super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs))
        return fields | {name: MultiModalFieldConfig.batched(modality) for modality, name in QUESTION_IDS.items()}

    def _get_mm_hashes(self, inputs: ProcessorInputs) -> Any:
        # What is kept of a picture is part of what it is, where caches are shared between engines.
        content = {**inputs.hf_processor_mm_kwargs, "tokensieve": self.info.selector.recipe.hash()}
        return super()._get_mm_hashes(replace(inputs, hf_processor_mm_kwargs=content))


def _without_question(given: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in given.items() if name != QUESTION}
