"""Pruning in a vision encoder.

From the first stage on, every block's `forward` is replaced on its instance. Tokens that are dropped leave
as they enter a block; tokens that are merged are folded between a block's attention and its MLP, and later
attention weighs a token by how many it stands for (log(size) on the logits of its key).

Where a model goes on with fewer tokens, blocks hand on what stays. Everywhere else the sequence keeps its
length for everyone outside a block: a block gathers what stays, computes on that, and gives every patch the
vector of the token that stands for it. So whatever reads the tower's layers finds them as they always are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tokensieve.engine.installation import Installation
from tokensieve.engine.sessions import PerThread
from tokensieve.engine.stage_selection import StageOutcome, TokenPool, select_stage
from tokensieve.engine.token_layout import TokenLayout
from tokensieve.errors import RefusedError
from tokensieve.evidence import Evidence, Value
from tokensieve.ledger.records import Prefill, SampleRecord, StageRecord
from tokensieve.ledger.run import Run
from tokensieve.models.encoder import Encoder
from tokensieve.models.layouts import raster
from tokensieve.recipes.recipe import Recipe
from tokensieve.stage import Stage


@dataclass(eq=False)
class EncoderBatch:
    """A batch of images between two blocks: which patches are left, and what stands for the others.

    Attributes:
        pool: their patches, by place.
        owner: int64 `[pictures, patches]`, the place of the token that stands for each patch, -1 where none does.
        places: int64 `[pictures, tokens]`, the places of the tokens that stay; every picture has equally many.
        records: what each stage did, one sample a picture.
        whole: whether no patch has left.
        weighs: whether any token stands for more than one patch.
    """

    pool: TokenPool
    owner: Tensor
    places: Tensor
    records: list[StageRecord] = field(default_factory=list)
    whole: bool = True
    weighs: bool = False

    def follow(self, outcome: StageOutcome) -> None:
        """Update the batch by the outcome of a stage."""
        owner = outcome.target.gather(1, self.owner.clamp(min=0))
        self.owner = torch.where(self.owner < 0, -1, owner)
        # Every picture keeps equally many, so the device need not be asked how many.
        kept = max(outcome.counts) if outcome.counts is not None else int(outcome.keep[0].sum())
        turn = outcome.keep.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices
        self.whole = kept == outcome.keep.shape[1]
        self.weighs = self.weighs or (outcome.merges and kept < self.places.shape[1])
        self.places = turn[:, :kept]


class EncoderPruner:
    """Prunes inside a vision encoder: replaced `forward`s of its blocks during one `prune`.

    Attributes:
        batches: what went through the tower since it was last asked, where a language model follows.
    """

    batches: PerThread[list[EncoderBatch]] = PerThread(list)
    _now: PerThread[EncoderBatch | None] = PerThread(lambda: None)
    _grid: PerThread[tuple[int, int] | None] = PerThread(lambda: None)

    def __init__(
        self,
        encoder: Encoder,
        recipe: Recipe,
        run: Run,
        keys: Sequence[int] | None,
        on_stage: Callable[[StageRecord], None],
    ) -> None:
        self._encoder = encoder
        self._recipe = recipe
        self._run = run
        self._keys = keys
        self._stages = {stage.at.block: stage for stage in recipe.stages if stage.at.part == "encoder"}
        self._first = min(self._stages)
        self._on_stage = on_stage

    @property
    def prunes_prompt(self) -> bool:
        """Whether tokens leave the prompt with the patches."""
        return self._encoder.prunes_prompt

    def install(self, installation: Installation) -> None:
        """Put everything into the model."""
        for name in self._encoder.refused_methods:
            if hasattr(self._encoder.model, name):
                installation.wrap(self._encoder.model, name, partial(_refuse, name))
        for number, block in enumerate(self._encoder.blocks):
            if number >= self._first:
                installation.wrap(block, "forward", partial(self._forward, number))
        if self._encoder.patch_embedding is not None:
            installation.post_hook(self._encoder.patch_embedding, self._embedded, trace=False)
        installation.later(self.forget)

    def forget(self) -> None:
        """Forget all batches."""
        self._now = None
        self._grid = None
        self.batches = []

    def whole(self, values: Tensor) -> Tensor:
        """Return values of all patches from those of the tokens that a block computes on.

        Args:
            values: `[pictures, prefix + tokens, c]`. A patch takes those of the token that stands for it, and zeros
                where none does.
        """
        batch, prefix = self._now, self._encoder.num_prefix_tokens
        if batch is None or batch.whole or values.shape[:2] != (len(batch.owner), prefix + batch.places.shape[1]):
            return values
        nothing = values.new_zeros(len(values), prefix + batch.owner.shape[1], values.shape[2])
        return self._outside(nothing, values, batch)

    def _forward(self, block: int, real: Callable[..., Any], hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run a block on the tokens that stay."""
        if any(isinstance(mask, Tensor) for mask in (*args, kwargs.get("attn_mask"), kwargs.get("attention_mask"))):
            raise RefusedError("an attention mask is not supported while tokens leave inside a vision encoder")
        batch = self._start(hidden) if block == self._first else self._now
        if batch is None:
            raise RefusedError("blocks were called out of order; call the model as a whole")
        stage = self._stages.get(block)
        x = hidden if self._encoder.shortens_sequence else self._inside(hidden, batch)
        if stage is not None and stage.rest == "drop":
            x = self._cut(stage, batch, x, partial(self._keys_of, block, x))
        bias = self._bias(batch, x)
        if bias is None and (stage is None or stage.rest == "drop"):
            out: Tensor = real(x, *args, **kwargs)
        else:
            out = self._run_split(block, stage, batch, x, bias, kwargs)
        return out if self._encoder.shortens_sequence or batch.whole else self._outside(hidden, out, batch)

    def _run_split(
        self,
        block: int,
        stage: Stage | None,
        batch: EncoderBatch,
        x: Tensor,
        bias: Tensor | None,
        kwargs: dict[str, Any],
    ) -> Tensor:
        """Run a block's attention and MLP one after the other, and merge between them."""
        seen: list[Tensor] = []

        def look(module: nn.Module, args: Any, output: Tensor) -> None:
            seen.append(output)

        merging = stage is not None and stage.rest == "merge"
        thread = threading.get_ident()
        # Other threads call the same projection.
        installation = Installation(lambda: threading.get_ident() == thread)
        with closing(installation):
            if stage is not None and merging and Evidence.VISION_KEYS in stage.needs:
                installation.post_hook(self._encoder.key_projection(block), look)
            x = self._encoder.attention_block(block, x, bias, kwargs)
        if stage is not None and merging:
            x = self._cut(stage, batch, x, lambda: self._encoder.mean_keys(block, seen[0]))
        return self._encoder.mlp_block(block, x)

    def _cut(self, stage: Stage, batch: EncoderBatch, x: Tensor, keys: Callable[[], Tensor]) -> Tensor:
        """Select among the tokens `x` `[pictures, prefix + tokens, d]`, and give those that stay."""
        prefix, pool, places = self._encoder.num_prefix_tokens, batch.pool, batch.places
        vectors = _by_place(x[:, prefix:], places, pool)
        fresh: dict[Evidence, Callable[[], Value]] = {
            Evidence.FEATURES: lambda: vectors.detach(),
            Evidence.VISION_KEYS: lambda: _by_place(keys().detach()[:, prefix:], places, pool),
        }
        outcome, record = select_stage(self._recipe, stage, pool, fresh)
        batch.follow(outcome)
        batch.records.append(record)
        if self._encoder.shortens_sequence:
            self._run.latest.stages.append(record)
            self._on_stage(record)
        if batch.places.shape == places.shape:
            # Gathering would keep every number, but not how they lie in memory, on which rounding depends.
            return x
        index = batch.places.unsqueeze(-1).expand(-1, -1, x.shape[2])
        return torch.cat([x[:, :prefix], outcome.apply(vectors).gather(1, index)], dim=1)

    def _embedded(self, module: nn.Module, args: Any, output: Tensor) -> None:
        """Remember the rows and columns of the patches of this call."""
        self._grid = self._encoder.patch_grid(output)

    def _layout(self, n: int) -> Tensor:
        """Return the places of the patches of this call's images."""
        grid, self._grid = self._grid, None
        return raster(*grid) if grid is not None and grid[0] * grid[1] == n else self._encoder.layout(n)

    def _start(self, hidden: Tensor) -> EncoderBatch:
        """Start a batch of images."""
        rows, n = hidden.shape[0], hidden.shape[1] - self._encoder.num_prefix_tokens
        keys = [0] * rows if self._keys is None else [int(key) for key in self._keys]
        if len(keys) != rows:
            raise RefusedError(
                f"keys has {len(keys)} sample keys for a batch of {rows} images; inside a vision encoder every image "
                "takes one"
            )
        device = hidden.device
        layout = _pictures(self._layout(n).cpu().numpy().tobytes(), rows, n)
        owner = torch.arange(n, device=device).expand(rows, n)
        pool = TokenPool(layout.every.on(device), layout, torch.tensor(keys, device=device), {}, counts=layout.counts)
        self._now = EncoderBatch(pool, owner, places=owner)
        if self._encoder.shortens_sequence:
            # No language model follows, to whose prompts this would belong.
            self._run.add(Prefill(keys, [0] * rows, [n] * rows, [n] * rows, [1] * rows, n))
        else:
            self.batches.append(self._now)
        return self._now

    def _keys_of(self, block: int, x: Tensor) -> Tensor:
        """Return the keys that a block will give tokens which are about to enter it."""
        projection = self._encoder.key_projection(block)
        return self._encoder.mean_keys(block, projection(self._encoder.attention_input(block, x)))

    def _bias(self, batch: EncoderBatch, x: Tensor) -> Tensor | None:
        """Return log(size) of every key, `[pictures, 1, tokens, tokens]`, or none while nothing is merged."""
        if not batch.weighs:
            return None
        own = batch.pool.sizes.gather(1, batch.places).log().to(x.dtype)
        line = torch.nn.functional.pad(own, (self._encoder.num_prefix_tokens, 0))
        return line[:, None, None, :].expand(-1, -1, x.shape[1], -1)

    def _inside(self, hidden: Tensor, batch: EncoderBatch) -> Tensor:
        """Gather class tokens and the tokens that stay."""
        if batch.whole:
            return hidden
        prefix = self._encoder.num_prefix_tokens
        index = batch.places.unsqueeze(-1).expand(-1, -1, hidden.shape[2])
        return torch.cat([hidden[:, :prefix], hidden[:, prefix:].gather(1, index)], dim=1)

    def _outside(self, hidden: Tensor, out: Tensor, batch: EncoderBatch) -> Tensor:
        """Return all patches, each with the vector of the token that stands for it, or its own where none does."""
        prefix, owner = self._encoder.num_prefix_tokens, batch.owner
        whole = _by_place(out[:, prefix:], batch.places, batch.pool)
        index = owner.clamp(min=0).unsqueeze(-1).expand_as(whole)
        patches = torch.where(owner.unsqueeze(-1) < 0, hidden[:, prefix:], whole.gather(1, index))
        return torch.cat([out[:, :prefix], patches], dim=1)


@lru_cache(maxsize=64)
def _pictures(places: bytes, rows: int, n: int) -> TokenLayout:
    """Return the layout of a batch of pictures whose `n` patches have the same places, int64 `[n, 4]`."""
    grid = np.zeros((rows, n, 5), dtype=np.int64)
    grid[..., 1:] = np.frombuffer(places, dtype=np.int64).reshape(n, 4)
    return TokenLayout(grid, (n,) * rows)


def by_prompt(batches: Sequence[EncoderBatch], rows: Sequence[int], prompts: int) -> list[StageRecord]:
    """Return the records of stages with one sample per prompt instead of one per image.

    Ids are places of patches; those of a prompt's second picture go on where the first one's end.

    Args:
        batches: of the same stages.
        rows: the prompt of each picture.
        prompts: how many there are.
    """
    patches = [batch.owner.shape[1] for batch in batches for _ in range(len(batch.owner))]
    joined = []
    for records in zip(*(batch.records for batch in batches), strict=True):
        first = records[0]
        joined.append(
            StageRecord(
                first.site,
                first.formula,
                first.keep,
                partial(_samples_by_prompt, records, rows, prompts, patches),
                partial(_total_ms, records),
                tuple(dict.fromkeys(note for record in records for note in record.notes)),
            )
        )
    return joined


def _samples_by_prompt(
    records: Sequence[StageRecord], rows: Sequence[int], prompts: int, patches: Sequence[int]
) -> tuple[SampleRecord, ...]:
    """Return one sample per prompt, from the records of batches of pictures with so many patches each."""
    pictures = [sample for record in records for sample in record.samples]
    samples = []
    for prompt in range(prompts):
        own = [picture for picture, row in enumerate(rows) if row == prompt]
        starts = [sum(patches[one] for one in own[:i]) for i in range(len(own))]
        kept = [pictures[one].kept + start for one, start in zip(own, starts, strict=True)]
        samples.append(
            SampleRecord(
                sum(pictures[one].entered for one in own),
                torch.cat(kept) if kept else torch.zeros(0, dtype=torch.int64),
                _shares([pictures[one] for one in own]),
                max((pictures[one].depth for one in own), default=0),
            )
        )
    return tuple(samples)


def _total_ms(records: Sequence[StageRecord]) -> float:
    return sum(record.ms for record in records)


def _shares(pictures: Sequence[SampleRecord]) -> dict[str, float]:
    """Return the shares of operands in all pictures together, by the tokens that each keeps."""
    total = sum(len(picture.kept) for picture in pictures)
    names = pictures[0].shares if pictures else {}
    return {name: sum(one.shares[name] * len(one.kept) for one in pictures) / max(total, 1) for name in names}


def _by_place(x: Tensor, places: Tensor, pool: TokenPool) -> Tensor:
    """Spread `x` `[pictures, tokens, d]` to `[pictures, patches, d]`; zero where none stays."""
    index = places.unsqueeze(-1).expand(-1, -1, x.shape[2])
    return x.new_zeros(*pool.alive.shape, x.shape[2]).scatter(1, index, x)


def _refuse(name: str, *args: Any, **kwargs: Any) -> Any:
    raise RefusedError(f"{name} needs the full grid of tokens; it is not supported under prune")
