"""Counted FLOPs of a vision encoder and its projector, unpruned and under a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from tokensieve.algebra.budget import count
from tokensieve.cost.language_model import flop_counter
from tokensieve.errors import RefusedError
from tokensieve.models.adapter import Adapter
from tokensieve.models.encoder import Encoder
from tokensieve.models.packed_tower import PackedTower
from tokensieve.recipes.recipe import Recipe
from tokensieve.stage import Stage


@dataclass(frozen=True)
class BlockCost:
    """The cost of one block of a vision encoder.

    Attributes:
        attention_parameters: parameters of the linear maps of its attention.
        mlp_parameters: parameters of its other linear maps, which are those of the MLP.
        attention_width: the width of all heads together.
    """

    attention_parameters: int
    mlp_parameters: int
    attention_width: int

    def flops(self, entering: int, leaving: int) -> int:
        """Return the FLOPs for one image: `entering` tokens pass the attention, and `leaving` tokens the MLP."""
        return (
            2 * entering * self.attention_parameters
            + 4 * entering * entering * self.attention_width
            + 2 * leaving * self.mlp_parameters
        )


@dataclass(frozen=True)
class Stretches:
    """How the patches of images and frames attend to each other.

    Attributes:
        frames: the number of patches of each image or frame.
        windows: that of each window, where some blocks have windows.
    """

    frames: tuple[int, ...]
    windows: tuple[int, ...] = ()


@dataclass(frozen=True)
class TowerCost:
    """The cost of the blocks of a vision encoder.

    Attributes:
        blocks: the cost of each block.
        num_prefix_tokens: the number of class and register tokens, which pass all blocks.
        windowed: the blocks whose attention is within windows.
    """

    blocks: tuple[BlockCost, ...]
    num_prefix_tokens: int
    windowed: frozenset[int] = frozenset()

    @classmethod
    def of(cls, encoder: Encoder | PackedTower) -> TowerCost:
        """Return the cost of an encoder, from its modules."""
        blocks = []
        for number, block in enumerate(encoder.blocks):
            own = _linear_parameters(encoder.attention(number))
            blocks.append(BlockCost(own, _linear_parameters(block) - own, encoder.attention_width(number)))
        windowed = encoder.windowed_blocks if isinstance(encoder, PackedTower) else frozenset()
        return cls(tuple(blocks), encoder.num_prefix_tokens, windowed)

    def flops(self, patches: int, stages: Mapping[int, tuple[int, bool]]) -> int:
        """Return the FLOPs for one image.

        Args:
            patches: the number of patches of the image.
            stages: by block, how many patches stay and whether the others are merged.
        """
        total, now = 0, patches
        for number, block in enumerate(self.blocks):
            left, merged = stages.get(number, (now, False))
            entering = now if merged else left
            total += block.flops(self.num_prefix_tokens + entering, self.num_prefix_tokens + left)
            now = left
        return total

    def attention_flops(self, stretches: Stretches) -> int:
        """Return the FLOPs of scores and weighted sums alone, for a list of patches."""
        return sum(
            4 * n * n * block.attention_width
            for number, block in enumerate(self.blocks)
            for n in (stretches.windows if number in self.windowed else stretches.frames)
        )

    def packed_flops(self, stretches: Stretches) -> int:
        """Return the FLOPs for a list of patches of several images or frames, without class tokens."""
        linear = sum(2 * (block.attention_parameters + block.mlp_parameters) for block in self.blocks)
        return sum(stretches.frames) * linear + self.attention_flops(stretches)


@dataclass(frozen=True)
class VisionCost:
    """The cost of encoding the images of a prompt, from pixels to the visual tokens of the language model.

    Attributes:
        unpruned_flops: counted FLOPs without pruning.
        num_images: the batch size of the encoder: tiles and frames count.
        patches_per_image: the number of patches of each of them.
        tower: the cost of the encoder's blocks; None if tokens cannot be removed inside the encoder.
        packed: the cost of the tower's blocks, where patches can be left out before it.
        frames: the number of patches of each frame of each image or video that it takes; an image is one frame.
        patches_per_unit: how many patches become one visual token.
    """

    unpruned_flops: int
    num_images: int
    patches_per_image: int
    tower: TowerCost | None
    packed: TowerCost | None = None
    frames: tuple[tuple[int, ...], ...] = ()
    patches_per_unit: int = 1

    @classmethod
    def of(cls, adapter: Adapter, inputs: Mapping[str, Tensor]) -> VisionCost:
        """Return the cost of encoding inputs, counted by running the encoder on the meta device.

        Args:
            adapter: of a model on the meta device, with a language model.
            inputs: the arguments of the encoder: pixels on the meta device, sizes and grids on the CPU.
        """
        decoder, encoder = adapter.decoder, adapter.encoder
        if decoder is None:
            raise TypeError(f"{adapter.name} has no language model whose pictures could be counted")
        shapes: list[torch.Size] = []
        hook = None
        if encoder is not None:
            hook = encoder.blocks[0].register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape))
        counter = flop_counter()
        try:
            # torch does not annotate the constructor of a dispatch mode.
            with torch.no_grad(), counter, _MoveToMeta():  # type: ignore[no-untyped-call]
                decoder.encode_visual_inputs(inputs)
        finally:
            if hook is not None:
                hook.remove()
        # A family may encode videos by another tower, inside which no token is removed.
        encoder = encoder if shapes else None
        pictures = sum(shape[0] for shape in shapes)
        patches = shapes[0][1] - encoder.num_prefix_tokens if encoder is not None else 0
        tower = TowerCost.of(encoder) if encoder is not None and encoder.separates_mlp else None
        packed, total = adapter.packed_tower, counter.get_total_flops()
        if packed is None:
            return cls(total, pictures, patches, tower)
        given = [one for one in decoder.modalities if inputs.get(one.pixel_argument) is not None]
        size, layouts = packed.patches_per_unit, [layout for one in given for layout in packed.layout(one, inputs)]
        frames = tuple(tuple(int(n) * size for n in layout[:, 1].unique(return_counts=True)[1]) for layout in layouts)
        return cls(total, pictures, patches, tower, TowerCost.of(packed), frames, size)

    def flops(self, recipe: Recipe) -> int:
        """Return the FLOPs under a recipe; a multiply-add counts as two, and attention in full.

        Raises:
            RefusedError: if the number of patches that a stage leaves of each image or frame depends on the image.
        """
        before = next((stage for stage in recipe.stages if stage.at.part == "pixel"), None)
        if self.packed is not None and before is not None:
            return self._packed_flops(recipe, before, self.packed)
        if self.tower is None:
            return self.unpruned_flops
        planned = kept_patches_by_block(recipe, self.patches_per_image)
        saved = self.tower.flops(self.patches_per_image, {}) - self.tower.flops(self.patches_per_image, planned)
        return self.unpruned_flops - self.num_images * saved

    def _packed_flops(self, recipe: Recipe, stage: Stage, packed: TowerCost) -> int:
        """Return the FLOPs where patches are left out before the tower."""
        # Which frame of a video loses how many, or which of several pictures.
        shared = stage.per != "frame" and any(len(own) > 1 for own in self.frames)
        shared = shared or (stage.per == "sample" and len(self.frames) > 1)
        if shared or packed.windowed or stage.keep.auto or stage.keep.mean:
            said = f"per: {stage.per}" if shared else f"keep: {stage.keep}"
            what = "what stays of each window" if packed.windowed and not shared else "what stays"
            raise RefusedError(f"'{recipe.name}' has {said} at {stage.at}: {what} depends on the picture")
        size = self.patches_per_unit
        whole = [patches for own in self.frames for patches in own]
        left = [count(stage.keep, patches // size) * size for patches in whole]
        before, after = (packed.attention_flops(Stretches(tuple(patches))) for patches in (whole, left))
        # Everything but attention is done for each patch.
        return (self.unpruned_flops - before) * sum(left) // sum(whole) + after


def kept_patches_by_block(recipe: Recipe, patches: int) -> dict[int, tuple[int, bool]]:
    """Return for each block with a stage how many patches of an image stay, and whether the others are merged."""
    planned, now = {}, patches
    for stage in recipe.stages:
        if stage.at.part == "encoder":
            now = count(stage.keep, now)
            planned[stage.at.block] = now, stage.rest == "merge"
    return planned


def patches_after_blocks(recipe: Recipe, patches: int, blocks: int) -> list[int]:
    """Return how many of the patches of an image are left after each block of an encoder.

    Args:
        recipe: the recipe.
        patches: how many enter the first block.
        blocks: the number of blocks.

    Raises:
        BudgetError: if a stage inside the encoder has the budget `auto`.
    """
    planned, left = kept_patches_by_block(recipe, patches), []
    for block in range(blocks):
        patches = planned.get(block, (patches, False))[0]
        left.append(patches)
    return left


class _MoveToMeta(TorchDispatchMode):
    """Moves tensors of other devices, such as positions made from a grid, to the meta device where the two meet."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(isinstance(x, Tensor) and x.is_meta for x in tree_leaves((args, kwargs))):
            args, kwargs = tree_map_only(Tensor, lambda x: x if x.is_meta else x.to("meta"), (args, kwargs))
        return func(*args, **kwargs)


def _linear_parameters(module: nn.Module) -> int:
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear))
