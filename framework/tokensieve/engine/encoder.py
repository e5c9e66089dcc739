"""Pruning in a vision encoder: tokens leave as they enter a block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tokensieve.adapter import Encoder
from tokensieve.engine.installation import Installation
from tokensieve.engine.settle import Pool, settle
from tokensieve.errors import RefusedError
from tokensieve.evidence import Evidence
from tokensieve.recipe import Recipe
from tokensieve.run import Prefill, Run, StageRecord


class EncoderEngine:
    """Hooks of one `prune` on a vision encoder."""

    def __init__(
        self,
        encoder: Encoder,
        recipe: Recipe,
        run: Run,
        keys: Sequence[int] | None,
        settled: Callable[[StageRecord], None],
    ) -> None:
        self._encoder = encoder
        self._recipe = recipe
        self._run = run
        self._keys = keys
        self._stages = {stage.at.block: stage for stage in recipe.stages if stage.at.part == "encoder"}
        self._pool: Pool | None = None
        self._settled = settled

    def install(self, installation: Installation) -> None:
        """Put everything into the model."""
        for name in self._encoder.forbidden:
            if hasattr(self._encoder.model, name):
                installation.override(self._encoder.model, name, partial(_refuse, name))
        blocks = self._encoder.blocks
        for block in self._stages:
            hook = partial(self._enter, block)
            installation.hook(blocks[block].register_forward_pre_hook(hook, with_kwargs=True, prepend=True))
        installation.later(self._forget)

    def _forget(self) -> None:
        self._pool = None

    def _start(self, x: Tensor) -> Pool:
        """Open the ledger of a batch of images."""
        rows, n = x.shape[0], x.shape[1] - self._encoder.prefix
        keys = [0] * rows if self._keys is None else [int(key) for key in self._keys]
        if len(keys) != rows:
            raise RefusedError(f"keys has {len(keys)} sample keys for a batch of {rows} images")
        self._run.prefills.append(Prefill(keys, [0] * rows, [n] * rows))
        grid = torch.zeros(rows, n, 5, dtype=torch.int64, device=x.device)
        grid[..., 1:] = self._encoder.layout(n).to(x.device)
        alive = torch.ones(rows, n, dtype=torch.bool, device=x.device)
        return Pool(alive, grid, alive.double(), torch.tensor(keys, device=x.device), {})

    def _enter(
        self, block: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Drop tokens as they enter a block; every image of a batch has and keeps equally many."""
        x: Tensor = args[0]
        if kwargs.get("attn_mask") is not None or len(args) > 1:
            raise RefusedError("an attention mask is not supported while an encoder's tokens are dropped")
        if block == min(self._stages):
            self._pool = self._start(x)
        pool = self._pool
        if pool is None:
            raise RefusedError("blocks were called out of order; call the model as a whole")
        prefix = self._encoder.prefix
        ids = torch.nonzero(pool.alive)[:, 1].reshape(x.shape[0], -1)
        patches = x[:, prefix:]
        index = ids.unsqueeze(-1).expand(-1, -1, x.shape[2])
        by_id = x.new_zeros(*pool.alive.shape, x.shape[2]).scatter(1, index, patches)
        outcome, record = settle(self._recipe, self._stages[block], pool, {Evidence.FEATURES: lambda: by_id.detach()})
        self._run.latest.stages.append(record)
        self._settled(record)
        kept = outcome.keep.gather(1, ids)
        if bool(kept.all()):
            # Gathering would keep every number, but not how they lie in memory, on which rounding depends.
            return args, kwargs
        survivors = patches[kept].reshape(x.shape[0], -1, x.shape[2])
        return (torch.cat([x[:, :prefix], survivors], dim=1), *args[1:]), kwargs


def _refuse(name: str, *args: Any, **kwargs: Any) -> Any:
    raise RefusedError(f"{name} needs the full grid of tokens; it is not supported under prune")
