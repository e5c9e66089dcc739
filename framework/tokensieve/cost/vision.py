"""Counted FLOPs of a vision encoder, and of what follows it up to the language model."""

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
from tokensieve.models.adapter import Adapter
from tokensieve.models.encoder import Encoder
from tokensieve.recipes.recipe import Recipe


@dataclass(frozen=True)
class BlockCost:
    """What a block of a vision encoder costs.

    Attributes:
        attention: parameters of the linear maps of its attention, each used once per token.
        rest: those of its MLP.
        width: width of all heads together.
    """

    attention: int
    rest: int
    width: int

    def flops(self, entering: int, leaving: int) -> int:
        """Count the FLOPs of a picture: `entering` tokens attend in full, `leaving` pass the MLP after any merge."""
        return 2 * entering * self.attention + 4 * entering * entering * self.width + 2 * leaving * self.rest


@dataclass(frozen=True)
class TowerCost:
    """What the blocks of a vision encoder cost.

    Attributes:
        blocks: one by one.
        prefix: class and register tokens, which pass through all of them.
    """

    blocks: tuple[BlockCost, ...]
    prefix: int

    @classmethod
    def of(cls, encoder: Encoder) -> TowerCost:
        """Read the cost off an encoder's modules."""
        blocks = []
        for number, block in enumerate(encoder.blocks):
            own = _linear(encoder.attention(number))
            blocks.append(BlockCost(own, _linear(block) - own, encoder.attention_width(number)))
        return cls(tuple(blocks), encoder.num_prefix_tokens)

    def flops(self, patches: int, stages: Mapping[int, tuple[int, bool]]) -> int:
        """Count the FLOPs of one picture.

        Args:
            patches: of the picture.
            stages: by block, how many patches stay and whether the others are merged.
        """
        total, now = 0, patches
        for number, block in enumerate(self.blocks):
            left, merged = stages.get(number, (now, False))
            entering = now if merged else left
            total += block.flops(self.prefix + entering, self.prefix + left)
            now = left
        return total


@dataclass(frozen=True)
class VisionCost:
    """What it costs to encode pictures, up to the visual tokens of the language model.

    Attributes:
        whole: counted FLOPs without any pruning.
        pictures: how many the encoder takes; tiles count.
        patches: of each of them.
        tower: the encoder's blocks, where tokens can leave in it.
    """

    whole: int
    pictures: int
    patches: int
    tower: TowerCost | None

    @classmethod
    def of(cls, adapter: Adapter, inputs: Mapping[str, Tensor]) -> VisionCost:
        """Count on a model of the meta device, which has shapes and no numbers.

        Args:
            adapter: of a model with a language model.
            inputs: the arguments that its encoder takes; pixels on the meta device, sizes and grids as they are.
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
            # Types of torch leave out that a mode is made without arguments.
            with torch.no_grad(), counter, _OnMeta():  # type: ignore[no-untyped-call]
                decoder.encode_visual_inputs(inputs)
        finally:
            if hook is not None:
                hook.remove()
        # Videos may have a tower of their own, in which no token leaves.
        encoder = encoder if shapes else None
        pictures = sum(shape[0] for shape in shapes)
        patches = shapes[0][1] - encoder.num_prefix_tokens if encoder is not None else 0
        tower = TowerCost.of(encoder) if encoder is not None and encoder.separates_mlp else None
        return cls(counter.get_total_flops(), pictures, patches, tower)

    def flops(self, recipe: Recipe) -> int:
        """Count the FLOPs under a recipe; a multiply-add is two, attention is counted in full."""
        if self.tower is None:
            return self.whole
        planned = planned_stages(recipe, self.patches)
        saved = self.tower.flops(self.patches, {}) - self.tower.flops(self.patches, planned)
        return self.whole - self.pictures * saved


def planned_stages(recipe: Recipe, patches: int) -> dict[int, tuple[int, bool]]:
    """Return by block how many patches of a picture stay in the encoder, and whether the others are merged."""
    planned, now = {}, patches
    for stage in recipe.stages:
        if stage.at.part == "encoder":
            now = count(stage.keep, now)
            planned[stage.at.block] = now, stage.rest == "merge"
    return planned


class _OnMeta(TorchDispatchMode):
    """Lets tensors with numbers, such as positions made of a grid, meet those of the meta device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(isinstance(x, Tensor) and x.is_meta for x in tree_leaves((args, kwargs))):
            args, kwargs = tree_map_only(Tensor, lambda x: x if x.is_meta else x.to("meta"), (args, kwargs))
        return func(*args, **kwargs)


def _linear(module: nn.Module) -> int:
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear))
