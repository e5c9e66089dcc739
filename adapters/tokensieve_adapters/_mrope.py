"""What the Qwen-VL and GLM-V families share: `grid_thw` grids, and position ids of several axes (M-RoPE)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokensieve.errors import RefusedError
from tokensieve.models.adapter import Adapter
from tokensieve.models.decoder import Decoder, Modality
from tokensieve.models.layouts import raster
from tokensieve.models.packed_tower import PackedTower
from tokensieve_adapters import _tiny

VISION_TOKENS: dict[str, Any] = {
    "image_token_id": _tiny.IMAGE,
    "video_token_id": _tiny.VIDEO,
    "vision_start_token_id": 61,
    "vision_end_token_id": 60,
}


class MropeDecoder(Decoder):
    """A token is a square of patches. Position ids have one axis of text, then those of time, height and width."""

    projector_name = "visual"
    vision_layers_path = "visual.blocks"
    vision_attention_name = "attn"
    vision_modalities = frozenset({"image", "video"})

    def patches_to_tokens(self, values: Tensor, request: Mapping[str, Any], modality: str = "image") -> Tensor:
        """Return the mean over the patches of each square; these are consecutive."""
        merge = self.config.vision_config.spatial_merge_size
        return values.reshape(-1, merge**2, values.shape[-1]).mean(dim=1)

    def split_inputs(self, modality: Modality, inputs: Mapping[str, Any]) -> list[dict[str, Tensor]] | None:
        """Return the patches and the grid of each image or video."""
        name = f"{modality.name}_grid_thw"
        pixels, grids = inputs.get(modality.pixel_argument), inputs.get(name)
        if not isinstance(pixels, Tensor) or not isinstance(grids, Tensor):
            return None
        sizes = grids.prod(dim=1).tolist()
        if sum(sizes) != len(pixels):
            return None
        parts = zip(pixels.split(sizes), grids.split(1), strict=True)
        return [{modality.pixel_argument: own, name: grid} for own, grid in parts]

    def layout(self, modality: str, output: Any, request: Mapping[str, Any]) -> list[Tensor]:
        """Return the layout from the grids: frames, then rows, then columns."""
        grids = request.get(f"{modality}_grid_thw")
        if grids is None:
            raise RefusedError(f"where each token of an encoded {modality} is depends on {modality}_grid_thw; pass it")
        merge = self.config.vision_config.spatial_merge_size
        return [raster(h // merge, w // merge, t) for t, h, w in torch.as_tensor(grids).tolist()]

    def rotary_embeddings(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cosine and sine for text positions, which are the same on all axes."""
        return super().rotary_embeddings(hidden, positions.expand(3, *positions.shape))

    def complete_position_ids(self, positions: Tensor, text: Tensor) -> Tensor:
        """Return the position ids with the axis of text first."""
        if positions.ndim == 2 or positions.shape[0] == 4:
            return positions
        return torch.cat([text.unsqueeze(0), positions.expand(3, *text.shape)])

    def position_ids(self, request: Mapping[str, Any], mask: Tensor, start: int, steps: int) -> Tensor:
        """Return the position ids `[4, batch, steps]`: text, time, height, width."""
        text = super().position_ids(request, mask, start, steps).expand(len(mask), -1)
        if start:
            axes = (text + self.base_model.rope_deltas.to(text.device)).expand(3, -1, -1)  # type: ignore[operator]
            return torch.cat([text.unsqueeze(0), axes])
        compute: Any = self.base_model.compute_3d_position_ids
        known = {name: request.get(name) for name in inspect.signature(compute).parameters}
        vectors = request.get("inputs_embeds")
        known["inputs_embeds"] = self.embed_tokens(request["input_ids"]) if vectors is None else vectors
        axes = compute(**known | {"attention_mask": mask.long()})
        return torch.cat([text.unsqueeze(0), text.expand(3, -1, -1) if axes is None else axes])


class PackedMropeTower(PackedTower):
    """A tower with rotary positions of two axes and full attention within an image or frame.

    Definition: the tower runs on the kept patches alone, each with the row and column that it has in its picture.
    """

    @property
    def patches_per_unit(self) -> int:
        """The patches of a square."""
        return int(self.decoder.config.vision_config.spatial_merge_size) ** 2

    def attention_width(self, block: int) -> int:
        """Return the width that enters the output projection of a block's attention."""
        return int(self.attention(block).proj.in_features)  # type: ignore[union-attr, arg-type]

    def layout(self, modality: Modality, request: Mapping[str, Any]) -> list[Tensor]:
        """Return the layout from the grids."""
        return self.decoder.layout(modality.name, None, request)

    def pixels(self, modality: Modality, request: Mapping[str, Any]) -> Tensor:
        """Return the patches of each square in a row; the processor puts them one after the other."""
        pixels: Tensor = request[modality.pixel_argument]
        return pixels.reshape(-1, self.patches_per_unit * pixels.shape[-1])

    def packed_inputs(self, modality: Modality, given: Mapping[str, Any], kept: Tensor) -> dict[str, Any]:
        """Return the kept patches with what the tower knows of each, and where pictures and frames end among them."""
        name, unit = f"{modality.name}_grid_thw", self.patches_per_unit
        pixels, grids = given[modality.pixel_argument], given[name]
        own = kept.to(grids.device)
        patches = (own.unsqueeze(1) * unit + torch.arange(unit, device=own.device)).flatten()
        sizes = grids[:, 1:].prod(dim=1) // unit
        left, bounds = (_bounds(own, size) for size in (sizes * grids[:, 0], sizes.repeat_interleave(grids[:, 0])))
        side = self.decoder.config.vision_config.spatial_merge_size
        known = {key: value[patches] for key, value in self.known_of_patches(grids).items()}
        # Of this grid only the number of patches of each picture is read: everything else is given.
        packed = torch.stack([torch.ones_like(left), torch.full_like(left, side), left * side], dim=1)
        ends = torch.nn.functional.pad(bounds[bounds > 0].cumsum(0) * unit, (1, 0)).to(torch.int32)
        known |= {"cu_seqlens": ends, **self.arrangement(modality, given, own)}
        return {modality.pixel_argument: pixels[patches.to(pixels.device)], name: packed, **known}

    def arrangement(self, modality: Modality, given: Mapping[str, Any], kept: Tensor) -> dict[str, Tensor]:
        """Return in which order a tower holds the kept units, and what else it knows of them; nothing by default."""
        return {}

    def known_of_patches(self, grids: Tensor) -> dict[str, Tensor]:
        """Return what the tower works out of the grids for each patch, `[patches, ...]`, by its argument."""
        from transformers.vision_utils import get_vision_position_ids

        return {"position_ids": get_vision_position_ids(grids, self.decoder.config.vision_config.spatial_merge_size)}


class InterpolatedTower(PackedMropeTower):
    """A tower that also adds learned positions, which it interpolates to the grid of each picture."""

    def known_of_patches(self, grids: Tensor) -> dict[str, Tensor]:
        """Return the rotary positions, and where in the table of learned positions each patch is, with weights."""
        from transformers.vision_utils import get_vision_interpolation_indices_and_weights

        tower: Any = self.decoder.base_model.visual
        rows, weights = get_vision_interpolation_indices_and_weights(
            grids,
            num_grid_per_side=tower.num_grid_per_side,
            mode=tower.interpolation_mode,
            align_corners=tower.interpolation_align_corners,
            spatial_merge_size=self.decoder.config.vision_config.spatial_merge_size,
        )
        return super().known_of_patches(grids) | {"interp_indices": rows, "interp_weights": weights}


def _bounds(kept: Tensor, sizes: Tensor) -> Tensor:
    """Return how many of the units in `kept` are in each of several stretches with so many units, int64."""
    ends = sizes.cumsum(0)
    return torch.bincount(torch.searchsorted(ends, kept, right=True), minlength=len(sizes))


class MropeAdapter(Adapter):
    """A family whose images are rows of flattened patches, with a grid for each image."""

    decoder_type = MropeDecoder

    @classmethod
    def random_inputs(
        cls, model: nn.Module, rows: Sequence[Sequence[int]], modality: str = "image"
    ) -> dict[str, Tensor]:
        """Return random images or videos of several shapes, as rows of flattened patches."""
        vision: Any = model.config.vision_config  # type: ignore[union-attr]
        merge, frames = vision.spatial_merge_size, 1 if modality == "image" else 2
        shapes = [(frames, 3 * merge, 4 * merge), (frames, 2 * merge, 3 * merge), (frames, 4 * merge, 2 * merge)]
        seeds = [seed for row in rows for seed in row]
        if not seeds:
            return {}
        grids = torch.tensor([shapes[seed % len(shapes)] for seed in seeds])
        width = 3 * vision.temporal_patch_size * vision.patch_size**2
        pixels = [
            torch.randn(int(grid.prod()), width, generator=torch.Generator().manual_seed(seed))
            for seed, grid in zip(seeds, grids, strict=True)
        ]
        name = "pixel_values" if modality == "image" else "pixel_values_videos"
        return {name: torch.cat(pixels), f"{modality}_grid_thw": grids}

    @classmethod
    def aligned_inputs(cls, model: nn.Module, ids: Tensor, num_generated: int = 0) -> dict[str, Tensor]:
        """Return `mm_token_type_ids`: 0 for text, 1 for images, 2 for videos."""
        return {"mm_token_type_ids": (ids == _tiny.IMAGE).int() + 2 * (ids == _tiny.VIDEO).int()}
