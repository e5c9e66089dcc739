"""What families with M-RoPE share in vLLM, pruned: placeholders by the grid of a picture, and positions.

Compact positions follow from how many tokens stay, so they are known before anything is computed. Of original ones,
those of kept tokens follow from the choice; they travel with the vectors (see `tokensieve.serving.positions`).
"""

# vLLM has an environment of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from vllm.multimodal.processing import PromptReplacement, PromptUpdate

from tokensieve.serving.positions import Offsets, with_offsets, without_offsets
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
        original = self._selector.recipe.positions == "original"
        self._offsets = Offsets(vllm_config.scheduler_config.max_num_batched_tokens) if original else None

    def embed_multimodal(self, **kwargs: object) -> Any:
        """Return what stands for each picture: the vectors that stay of it, `[kept, d]`; see `handed_on`."""
        read: list[tuple[str, dict[str, Any]]] = []
        questions: list[Tensor] = []
        # vLLM's own class takes images and videos in the order of the arguments.
        for modality in (one for name in kwargs for one, pixels in PIXELS.items() if name == pixels):
            own: dict[str, Any] = {name: kwargs[name] for name in _READ[modality] if name in kwargs}
            number = len(own[f"{modality}_grid_thw"])
            read += [(modality, {name: value[one] for name, value in own.items()}) for one in range(number)]
            ids: Any = kwargs.get(QUESTION_IDS[modality])
            questions += [] if ids is None else [self.language_model.embed_input_ids(one) for one in ids]
        pictures = {name: value for name, value in kwargs.items() if name not in QUESTION_IDS.values()}
        features = super().embed_multimodal(**pictures)  # type: ignore[misc]
        if not read:
            return features
        grids = [grid_of(one[f"{modality}_grid_thw"].tolist(), self._merge) for modality, one in read]
        # Tokens are judged by what enters the language model; behind it stands what is added to its layers.
        width = self.config.text_config.hidden_size
        selected = self._selector.select_each([one[:, :width] for one in features], grids, questions or None)
        handed = []
        for one, (kept, ids), grid, (modality, given) in zip(features, selected, grids, read, strict=True):
            vectors = kept if one.shape[1] == width else torch.cat([kept, one[ids, width:]], dim=1)
            vectors = self.handed_on(vectors, ids, grid, given)
            if self._offsets is not None:
                vectors = with_offsets(vectors, self._moved(modality, grid, given, ids))
            handed.append(vectors)
        return tuple(handed)

    def handed_on(self, kept: Tensor, ids: Tensor, grid: Raster, read: Mapping[str, Any]) -> Tensor:
        """Return the vectors that stand for a picture in the prompt, as many as were written for it.

        Args:
            kept: `[k, d]`, what stays of it.
            ids: int64 `[k]`.
            grid: of its tokens.
            read: what transformers' processor made of it, without its pixels.
        """
        return kept

    def whole(self, modality: str, grid: Raster, read: Mapping[str, Any]) -> list[int]:
        """Return the ids that would stand for a picture in the prompt if it lost nothing; see `handed_on`."""
        return [self._placeholder(modality)] * grid.tokens

    def _placeholder(self, modality: str) -> int:
        found: int = self.config.image_token_id if modality == "image" else self.config.video_token_id
        return found

    def _moved(self, modality: str, grid: Raster, read: Mapping[str, Any], ids: Tensor) -> Tensor:
        """Return how far from where a picture begins its tokens stand, int64 `[3, n]`."""
        whole = self.whole(modality, grid, read)
        data = {name: SimpleNamespace(data=value) for name, value in read.items()}
        place = SimpleNamespace(offset=0, length=len(whole))
        alone = SimpleNamespace(modality=modality, data=data, mm_position=place)
        positions, _ = super().get_mrope_input_positions(whole, [alone])  # type: ignore[misc]
        positions = positions.to(ids.device)
        token = torch.tensor(whole, device=ids.device) == self._placeholder(modality)
        stays = ~token
        stays[token.nonzero().flatten()[ids]] = True
        found: Tensor = positions[:, stays] - positions[:, :1]
        return found

    def embed_input_ids(
        self, input_ids: Tensor, multimodal_embeddings: Any = None, *, is_multimodal: Tensor | None = None
    ) -> Tensor:
        """Return the vectors of a prompt `[n, d]`, after taking positions off those of pictures."""
        if self._offsets is not None and multimodal_embeddings is not None and len(multimodal_embeddings):
            vectors, offsets = zip(*map(without_offsets, multimodal_embeddings), strict=True)
            if is_multimodal is not None:
                self._offsets.put(torch.cat(offsets, dim=1), is_multimodal)
            multimodal_embeddings = vectors
        embedded: Tensor = super().embed_input_ids(  # type: ignore[misc]
            input_ids, multimodal_embeddings, is_multimodal=is_multimodal
        )
        return embedded

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: object,
    ) -> Any:
        """Return what vLLM's own class does, at positions to which those of kept tokens are added."""
        if self._offsets is not None:
            positions = self._offsets.taken(positions)
        return super().forward(  # type: ignore[misc]
            input_ids, positions, intermediate_tensors, inputs_embeds, **kwargs
        )

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: list[Any]) -> tuple[Tensor, int]:
        """Return positions `[3, n]`, and how much further than `n` the next token's is.

        Compact ones have no gaps; a prompt that loses nothing has its own, as under `prune`. Original ones are
        those of a prompt that loses nothing, with all tokens of a picture where it begins.
        """
        features = sorted(mm_features, key=lambda one: one.mm_position.offset)
        read = [
            {name: value.data for name, value in one.data.items() if name in _READ[one.modality]} for one in features
        ]
        grids = [
            grid_of(given[f"{one.modality}_grid_thw"].tolist(), self._merge)
            for one, given in zip(features, read, strict=True)
        ]
        if self._offsets is None:
            if all(self._selector.count(grid) == grid.tokens for grid in grids):
                positions, further = super().get_mrope_input_positions(input_tokens, mm_features)  # type: ignore[misc]
                return positions, further
            return torch.arange(len(input_tokens)).expand(3, -1).contiguous(), 0
        whole: list[int] = []
        places: list[int] = []
        unpruned, done = [], 0
        for feature, given, grid in zip(features, read, grids, strict=True):
            place = feature.mm_position
            places += range(len(whole), len(whole) + place.offset - done)
            whole += input_tokens[done : place.offset]
            places += [len(whole)] * place.length
            own = self.whole(feature.modality, grid, given)
            moved = replace(place, offset=len(whole), length=len(own), is_embed=None)
            unpruned.append(replace(feature, mm_position=moved))
            whole += own
            done = place.offset + place.length
        places += range(len(whole), len(whole) + len(input_tokens) - done)
        whole += input_tokens[done:]
        positions, further = super().get_mrope_input_positions(whole, unpruned)  # type: ignore[misc]
        return positions[:, places].contiguous(), further + len(whole) - len(input_tokens)


_READ = {
    "image": ("image_grid_thw",),
    "video": ("video_grid_thw", "second_per_grid_ts", "timestamps"),
}
"""What transformers' processor says of each kind of pictures, on which positions depend."""
