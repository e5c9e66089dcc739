"""timm Vision Transformers: ViT, DeiT and what shares their class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tokensieve.adapter import Adapter, Encoder
from tokensieve.errors import RefusedError
from tokensieve.recipe import Stage

HOME = "timm.models.vision_transformer"


class TimmVitEncoder(Encoder):
    """Blocks of a timm VisionTransformer; patches follow the class and register tokens."""

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks."""
        blocks = self.model.get_submodule("blocks")
        return [blocks.get_submodule(name) for name, _ in blocks.named_children()]

    @property
    def prefix(self) -> int:
        """Class, distillation and register tokens."""
        return int(self.model.num_prefix_tokens)  # type: ignore[arg-type]

    @property
    def forbidden(self) -> tuple[str, ...]:
        """These reshape tokens to a full grid."""
        return ("forward_intermediates", "get_intermediate_layers")

    def refuses(self, stage: Stage) -> list[str]:
        """Refuse what the base class does, and blocks that run twice."""
        reasons = super().refuses(stage)
        if getattr(self.model, "grad_checkpointing", False):
            reasons.append("gradient checkpointing runs blocks twice; call model.set_grad_checkpointing(False)")
        return reasons

    def layout(self, n: int) -> Tensor:
        """Lay the patches out row by row; the grid is square where the image size is dynamic."""
        rows, columns = self.model.get_submodule("patch_embed").grid_size  # type: ignore[misc]
        if rows * columns != n:
            side = round(n**0.5)
            if side * side != n:
                raise RefusedError(f"{n} patches are not the model's {rows} x {columns} grid and not square")
            columns = side
        place = torch.arange(n)
        zero = torch.zeros_like(place)
        return torch.stack([zero, zero, place // columns, place % columns], dim=1)


class TimmVitAdapter(Adapter):
    """timm's VisionTransformer and its subclasses."""

    name = "timm_vit"

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        """Match by class, without importing timm."""
        return any(c.__module__ == HOME and c.__name__ == "VisionTransformer" for c in type(model).__mro__)

    @property
    def encoder(self) -> Encoder:
        """The whole model."""
        return TimmVitEncoder(self.model)

    @classmethod
    def tiny(cls) -> nn.Module:
        """Give a model of 36 patches, four blocks and ten classes."""
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
