"""What families with M-RoPE share in vLLM, pruned: placeholders by the grid of a picture, and compact positions.

Compact positions follow from how many tokens stay, so they are known before anything is computed.
"""

# vLLM has an environment of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from vllm.multimodal.processing import PromptReplacement, PromptUpdate

from tokensieve.serving.selector import Raster
from tokensieve.vllm.requests import PIXELS, QUESTION_IDS, PrunedInfo, PrunedProcessor
from tokensieve.vllm.serving import selector_of


def grid_of(patches: Sequence[int], merge: int) -> Raster:
    """Return the grid of a picture's tokens, each of which is a square of patches.

    Args:
        patches: frames, rows and columns of patches.
        merge: how many patches are on a side of the square.
    """
    frames, rows, columns = (int(one) for one in patches)
    return Raster(frames, rows // merge, columns // merge)


class MropeInfo(PrunedInfo):
    """Knows the ids of placeholders."""

    @property
    def placeholders(self) -> list[int]:
        """The ids that stand for visual tokens in a prompt."""
        config = self.get_hf_config()
        return [config.image_token_id, config.video_token_id]


class MropeProcessor(PrunedProcessor):
    """Writes a placeholder for each token that stays."""

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[PromptUpdate]:
        config = self.info.get_hf_config()
        ids = {"image": config.image_token_id, "video": config.video_token_id}
        merge, selector = config.vision_config.spatial_merge_size, self.info.selector

        def replacement(number: int, modality: str) -> list[int]:
            patches = out_mm_kwargs[modality][number][f"{modality}_grid_thw"].data.tolist()
            return [ids[modality]] * selector.count(grid_of(patches, merge))

        return [
            PromptReplacement(modality=modality, target=[one], replacement=partial(replacement, modality=modality))
            for modality, one in ids.items()
        ]


class PrunedMrope:
    """What stands before a class of vLLM: its pictures hand on the tokens that a recipe keeps."""

    config: Any
    language_model: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self._selector = selector_of(self.config)
        self._merge = self.config.vision_config.spatial_merge_size

    def embed_multimodal(self, **kwargs: object) -> Any:
        """Return the vectors that stay of each picture, `[kept, d]`."""
        grids: list[Raster] = []
        questions: list[Tensor] = []
        # vLLM's own class takes images and videos in the order of the arguments.
        for modality in (one for name in kwargs for one, pixels in PIXELS.items() if name == pixels):
            patches: Any = kwargs[f"{modality}_grid_thw"]
            grids += [grid_of(one, self._merge) for one in patches.tolist()]
            ids: Any = kwargs.get(QUESTION_IDS[modality])
            questions += [] if ids is None else [self.language_model.embed_input_ids(one) for one in ids]
        pictures = {name: value for name, value in kwargs.items() if name not in QUESTION_IDS.values()}
        features = super().embed_multimodal(**pictures)  # type: ignore[misc]
        if not grids:
            return features
        # Tokens are judged by what enters the language model; behind it stands what is added to its layers.
        width = self.config.text_config.hidden_size
        selected = self._selector.select_each([one[:, :width] for one in features], grids, questions or None)
        return tuple(
            kept if one.shape[1] == width else torch.cat([kept, one[ids, width:]], dim=1)
            for one, (kept, ids) in zip(features, selected, strict=True)
        )

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: list[Any]) -> tuple[Tensor, int]:
        """Return positions `[3, n]` without gaps; a prompt that loses nothing has its own, as under `prune`."""
        kept = sum(feature.mm_position.length for feature in mm_features)
        whole = sum(
            grid_of(feature.data[f"{feature.modality}_grid_thw"].data.tolist(), self._merge).tokens
            for feature in mm_features
        )
        if kept == whole:
            positions, delta = super().get_mrope_input_positions(input_tokens, mm_features)  # type: ignore[misc]
            return positions, delta
        return torch.arange(len(input_tokens)).expand(3, -1).contiguous(), 0
