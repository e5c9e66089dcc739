"""What LLaVA-NeXT, LLaVA-NeXT-Video and LLaVA-OneVision share: images cut into tiles (anyres), with newline tokens."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from tokensieve.errors import RefusedError
from tokensieve.models.decoder import Modality
from tokensieve.models.layouts import require_size, tiled
from tokensieve_adapters._tower import TowerDecoder

REMEMBERED = 256
"""How many layouts of a model are remembered; a server sees few sizes of images."""
_LAYOUTS: WeakKeyDictionary[nn.Module, dict[Hashable, Tensor]] = WeakKeyDictionary()
"""By model; the engine knows a layout that it has seen by its identity."""


def num_tiles(config: Any, sizes: Tensor, images_per_prompt: Sequence[int] | None) -> list[int]:
    """Return the number of tiles of each image, the whole image included.

    Args:
        config: of the model.
        sizes: int64 `[images, 2]`, height and width.
        images_per_prompt: how many images each prompt has, for families that do not cut an image that shares its
            prompt with others; None for families that always cut.
    """
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    counts = images_per_prompt
    cut = [True] * len(sizes) if counts is None else [n == 1 for n in counts for _ in range(n)]
    return [
        int(image_size_to_num_patches(size, config.image_grid_pinpoints, config.vision_config.image_size)) if one else 1
        for size, one in zip(sizes, cut, strict=True)
    ]


class AnyresDecoder(TowerDecoder):
    """Tile 0 is the whole image. The other tiles follow as one grid of rows, each with a newline token at its end."""

    def layout(self, modality: str, output: Any, request: Mapping[str, Any]) -> list[Tensor]:
        """Return the layout: places of patches are packed as the model packs their features."""
        require_size(request.get("pixel_values"), self.config.vision_config.image_size)
        tiles, sizes = self._tiles(request)
        return [self._layout(count, size) for count, size in zip(tiles, sizes, strict=True)]

    def num_encoder_images(self, modality: str, layouts: Sequence[Tensor], request: Mapping[str, Any]) -> list[int]:
        """Return the number of tiles of each image, or of frames of each video."""
        if modality == "image":
            return self._tiles(request)[0]
        return [int(layout[:, 1].max()) + 1 for layout in layouts]

    def split_inputs(self, modality: Modality, inputs: Mapping[str, Any]) -> list[dict[str, Tensor]] | None:
        """Return the inputs of each image, without the empty tiles that pad it."""
        counts = inputs.get("batch_num_images")
        if counts is not None:
            counts = torch.as_tensor(counts)
            # Images that share a prompt are not cut into tiles, but each of them alone would be.
            if bool((counts > 1).any()):
                return None
            inputs = {**inputs, "batch_num_images": counts[counts == 1]}
        pictures = super().split_inputs(modality, inputs)
        if modality.name != "image" or pictures is None:
            return pictures
        if inputs[modality.pixel_argument].ndim != 5 or not isinstance(inputs.get("image_sizes"), Tensor):
            return None
        tiles, _ = self._tiles(inputs)
        return [
            picture | {modality.pixel_argument: picture[modality.pixel_argument][:, :count]}
            for picture, count in zip(pictures, tiles, strict=True)
        ]

    def _tiles(self, request: Mapping[str, Any]) -> tuple[list[int], Tensor]:
        """Return the number of tiles of each image, and the sizes of the images."""
        sizes = request.get("image_sizes")
        if sizes is None:
            raise RefusedError("where each token of an encoded picture is depends on image_sizes; pass them too")
        sizes = torch.as_tensor(sizes).cpu()
        counts = request.get("batch_num_images")
        return num_tiles(self.config, sizes, None if counts is None else torch.as_tensor(counts).tolist()), sizes

    def patches_to_tokens(self, values: Tensor, request: Mapping[str, Any], modality: str = "image") -> Tensor:
        """Return values of patches packed as the model packs their features; newline tokens get zeros."""
        tiles, sizes = self._tiles(request)
        newline = values.new_zeros(values.shape[-1])
        pictures = zip(values.reshape(sum(tiles), -1, values.shape[-1]).split(tiles), sizes, strict=True)
        return torch.cat([self.pack([picture], size.unsqueeze(0), newline) for picture, size in pictures])

    def _layout(self, tiles: int, size: Tensor) -> Tensor:
        """Return the layout of one image of this size, cut into so many tiles; the same tensor for the same ones."""
        vision, known = self.config.vision_config, _LAYOUTS.setdefault(self.base_model, {})
        pinpoints = tuple(map(tuple, self.config.image_grid_pinpoints))
        strategy = self.config.vision_feature_select_strategy
        key = tiles, tuple(size.tolist()), vision.image_size, vision.patch_size, pinpoints, strategy
        if key not in known:
            if len(known) >= REMEMBERED:
                known.clear()
            # Kept for calls to come, some of which may be under autograd.
            with torch.inference_mode(False), torch.no_grad():
                known[key] = self._new_layout(tiles, size.clone())
        return known[key]

    def _new_layout(self, tiles: int, size: Tensor) -> Tensor:
        from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

        vision = self.config.vision_config
        _, columns = get_anyres_image_grid_shape(size, self.config.image_grid_pinpoints, vision.image_size)

        def pack(places: Tensor, newline: Tensor) -> Tensor:
            return self.pack([places], size.unsqueeze(0), newline)

        return tiled(vision.image_size // vision.patch_size, tiles, columns, pack)

    def pack(self, places: list[Tensor], sizes: Tensor, newline: Tensor) -> Tensor:
        """Return the vectors of one image, `[tiles, patches, d]`, packed as the model packs features: `[tokens, d]`."""
        strategy = self.config.vision_feature_select_strategy
        packed, _ = self.base_model.pack_image_features(  # type: ignore[operator]
            places, sizes, vision_feature_select_strategy=strategy, image_newline=newline
        )
        result: Tensor = packed[0]
        return result


def random_anyres_images(config: Any, rows: Sequence[Sequence[int]], counted: bool) -> dict[str, Tensor]:
    """Return random images of several shapes as a processor returns them; see `Adapter.random_inputs`.

    Args:
        config: of the model.
        rows: for every prompt, one seed for each image.
        counted: whether the family takes `batch_num_images`.
    """
    side = config.vision_config.image_size
    shapes = [(side, side), (side * 2, side), (side * 3 // 4, side * 3 // 2), (side * 2, side * 2)]
    seeds = [seed for row in rows for seed in row]
    if not seeds:
        return {}
    sizes = torch.tensor([shapes[seed % len(shapes)] for seed in seeds])
    alone = [len(row) for row in rows]
    tiles = num_tiles(config, sizes, alone if counted else None)
    pixels = torch.zeros(len(seeds), max(tiles), 3, side, side)
    for number, (seed, count) in enumerate(zip(seeds, tiles, strict=True)):
        pixels[number, :count] = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))
    made = {"pixel_values": pixels, "image_sizes": sizes}
    return made | ({"batch_num_images": torch.tensor(alone)} if counted else {})
