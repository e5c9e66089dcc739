"""timm Vision Transformers: ViT, DeiT and other models of the class VisionTransformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from tokensieve.errors import RefusedError
from tokensieve.evidence import Evidence
from tokensieve.models.adapter import Adapter
from tokensieve.models.encoder import Encoder
from tokensieve.models.layouts import raster
from tokensieve.stage import Stage

_MODULE = "timm.models.vision_transformer"


class TimmVitEncoder(Encoder):
    """The blocks of a timm VisionTransformer; patches follow the class and register tokens."""

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks."""
        blocks = self.model.get_submodule("blocks")
        return [blocks.get_submodule(name) for name, _ in blocks.named_children()]

    @property
    def num_prefix_tokens(self) -> int:
        """The number of class, distillation and register tokens."""
        return int(self.model.num_prefix_tokens)  # type: ignore[arg-type]

    @property
    def patches_per_image(self) -> int | None:
        """The number of patches; None if images can be of any size."""
        embedding: Any = self.model.get_submodule("patch_embed")
        return None if self._is_dynamic else int(embedding.num_patches)

    @property
    def refused_methods(self) -> tuple[str, ...]:
        """Methods that reshape tokens to the full grid."""
        return ("forward_intermediates", "get_intermediate_layers")

    @property
    def separates_mlp(self) -> bool:
        """Whether all blocks are timm's Block."""
        return not self._other_block_types()

    def _other_block_types(self) -> set[str]:
        return {type(block).__name__ for block in self.blocks} - {"Block"}

    def attention_input(self, block: int, x: Tensor) -> Tensor:
        """Return the output of the block's first norm."""
        result: Tensor = self._part(block, "norm1")(x)
        return result

    def attention_block(self, block: int, x: Tensor, bias: Tensor | None, kwargs: dict[str, Any]) -> Tensor:
        """Return the block's input plus its attention, with timm's layer scale and drop path."""
        attended = self.attention(block)(self.attention_input(block, x), attn_mask=bias)
        added: Tensor = self._part(block, "drop_path1")(self._part(block, "ls1")(attended))
        return x + added

    def mlp_block(self, block: int, x: Tensor) -> Tensor:
        """Return `x` plus the output of the MLP, with timm's layer scale and drop path."""
        made = self._part(block, "mlp")(self._part(block, "norm2")(x))
        added: Tensor = self._part(block, "drop_path2")(self._part(block, "ls2")(made))
        return x + added

    def attention(self, block: int) -> nn.Module:
        """Return the attention module of a block."""
        return self._part(block, "attn")

    def attention_width(self, block: int) -> int:
        """Return the width of all heads together."""
        attention: Any = self.attention(block)
        return int(attention.num_heads * attention.head_dim)

    def key_projection(self, block: int) -> nn.Module:
        """Return the projection to queries, keys and values."""
        return self._part(block, "attn.qkv")

    def mean_keys(self, block: int, projected: Tensor) -> Tensor:
        """Return the mean of the keys over heads; they are the second third of the projection's output."""
        attention: Any = self.attention(block)
        heads = projected.chunk(3, dim=-1)[1].unflatten(-1, (attention.num_heads, -1))
        normed: Tensor = self._part(block, "attn.k_norm")(heads)
        return normed.mean(dim=-2)

    def _part(self, block: int, name: str) -> nn.Module:
        return self.blocks[block].get_submodule(name)

    def refusals(self, stage: Stage) -> list[str]:
        """Return the reasons of the base class, and those for gradient checkpointing and for other types of block."""
        reasons = super().refusals(stage)
        if not self.separates_mlp and (stage.rest == "merge" or Evidence.VISION_KEYS in stage.needs):
            others = ", ".join(sorted(self._other_block_types()))
            reasons.append(
                f"its blocks are of timm's {others}; merging, and keys as evidence, are supported for timm's Block. "
                "Say rest: drop, and judge by features"
            )
        if getattr(self.model, "grad_checkpointing", False):
            reasons.append("gradient checkpointing runs blocks twice; call model.set_grad_checkpointing(False)")
        return reasons

    def layout(self, n: int) -> Tensor:
        """Return the layout of images of the model's own size, row by row.

        Raises:
            RefusedError: if images can be of other sizes, or the model has another number of patches.
        """
        embedding: Any = self.model.get_submodule("patch_embed")
        rows, columns = embedding.grid_size
        if self._is_dynamic or rows * columns != n:
            raise RefusedError(
                f"where {n} patches are is not known: the model's own grid is {rows} x {columns}, and its patch "
                "embedding was not called for images of another shape, or patches were dropped; call the model as a "
                "whole, without patch_drop_rate"
            )
        return raster(rows, columns)

    @property
    def _is_dynamic(self) -> bool:
        return bool(getattr(self.model, "dynamic_img_size", False))

    @property
    def patch_embedding(self) -> nn.Module | None:
        """The patch embedding if the image size is dynamic; it then keeps rows and columns apart."""
        return self.model.get_submodule("patch_embed") if self._is_dynamic else None

    def patch_grid(self, embedded: Tensor) -> tuple[int, int]:
        """Return the rows and columns of `[batch, rows, columns, d]`."""
        return embedded.shape[1], embedded.shape[2]


class TimmVitAdapter(Adapter):
    """timm's VisionTransformer and its subclasses."""

    name = "timm_vit"
    encoder_type = TimmVitEncoder

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        """Return whether the class is timm's VisionTransformer or a subclass, without importing timm."""
        return any(c.__module__ == _MODULE and c.__name__ == "VisionTransformer" for c in type(model).__mro__)

    @classmethod
    def tiny(cls) -> nn.Module:
        """Return a model with 36 patches, four blocks and ten classes."""
        import timm

        model: nn.Module = timm.create_model(
            "vit_tiny_patch16_224",
            pretrained=False,
            img_size=48,
            patch_size=8,
            embed_dim=48,
            depth=4,
            num_heads=4,
            num_classes=10,
        )
        return model.eval()
