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
        merge = config.vision_config.spatial_merge_size

        def replacement(number: int, modality: str, token: int) -> Any:
            read = out_mm_kwargs[modality][number]
            grid = grid_of(read[f"{modality}_grid_thw"].data.tolist(), merge)
            return self.written(modality, token, grid, read)

        ids = {"image": config.image_token_id, "video": config.video_token_id}
        return [
            PromptReplacement(
                modality=modality, target=[token], replacement=partial(replacement, modality=modality, token=token)
            )
            for modality, token in ids.items()
        ]

    def written(self, modality: str, token: int, grid: Raster, read: Mapping[str, Any]) -> Any:
        """Return what stands for a picture in the prompt.

        Args:
            modality: `image` or `video`.
            token: the id of its placeholders.
            grid: of its tokens.
            read: what transformers' processor made of it.
        """
        return [token] * self.info.selector.count(grid)


class PrunedMrope:
    """What stands before a class of vLLM: its pictures hand on the tokens that a recipe keeps."""

    config: Any
    language_model: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self._selector = selector_of(self.config)
        self._merge = self.config.vision_config.spatial_merge_size

    def embed_multimodal(self, **kwargs: object) -> Any:
        """Return what stands for each picture: the vectors that stay of it, `[kept, d]`; see `handed_on`."""
        grids: list[Raster] = []
        stamps: list[Any] = []
        questions: list[Tensor] = []
        # vLLM's own class takes images and videos in the order of the arguments.
        for modality in (one for name in kwargs for one, pixels in PIXELS.items() if name == pixels):
            patches: Any = kwargs[f"{modality}_grid_thw"]
            own = [grid_of(one, self._merge) for one in patches.tolist()]
            grids += own
            given: Any = kwargs.get("timestamps") if modality == "video" else None
            stamps += [None] * len(own) if given is None else list(given)
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
            self.handed_on(
                kept if one.shape[1] == width else torch.cat([kept, one[ids, width:]], dim=1), ids, grid, times
            )
            for one, (kept, ids), grid, times in zip(features, selected, grids, stamps, strict=True)
        )

    def handed_on(self, kept: Tensor, ids: Tensor, grid: Raster, timestamps: Any) -> Tensor:
        """Return the vectors that stand for a picture in the prompt, as many as were written for it.

        Args:
            kept: `[k, d]`, what stays of it.
            ids: int64 `[k]`.
            grid: of its tokens.
            timestamps: of the frames of a video, in seconds, where the family writes them into the prompt.
        """
        return kept

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: list[Any]) -> tuple[Tensor, int]:
        """Return positions `[3, n]` without gaps; a prompt that loses nothing has its own, as under `prune`."""
        grids = [
            grid_of(feature.data[f"{feature.modality}_grid_thw"].data.tolist(), self._merge) for feature in mm_features
        ]
        if all(self._selector.count(grid) == grid.tokens for grid in grids):
            positions, delta = super().get_mrope_input_positions(input_tokens, mm_features)  # type: ignore[misc]
            return positions, delta
        return torch.arange(len(input_tokens)).expand(3, -1).contiguous(), 0
