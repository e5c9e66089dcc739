"""Selecting at one stage: from evidence about a batch to the tokens that stay."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tokensieve.algebra.budget import counts
from tokensieve.algebra.reduction import Reduction, nearest
from tokensieve.algebra.universe import Universe
from tokensieve.composers.expression import Expression
from tokensieve.composers.selection import Selection, select
from tokensieve.errors import ScoreError
from tokensieve.evidence import NEWLINE, Evidence, Tokens, Value, take_rows
from tokensieve.ledger.records import SampleRecord, StageRecord, mask_to_ids
from tokensieve.recipes.formulas import format_formula
from tokensieve.recipes.recipe import Recipe
from tokensieve.stage import Stage
from tokensieve.strategy import Merger, Strategy


@dataclass(frozen=True, eq=False)
class StageOutcome:
    """What a stage does to each visual token: stays, is dropped, or is merged into another; by id.

    Attributes:
        keep: bool `[batch, tokens]`.
        target: int64 `[batch, tokens]`, the id of the token it becomes part of; itself where it
            stays, -1 where it vanishes.
        weight: `[batch, tokens]`, with which share.
        merges: whether any token is folded into another.
    """

    keep: Tensor
    target: Tensor
    weight: Tensor
    merges: bool

    def expanded(self, rows: int) -> StageOutcome:
        """Return the outcome with every sample standing `rows` times in a row."""
        if rows == 1:
            return self
        keep = self.keep.repeat_interleave(rows, dim=0)
        target = self.target.repeat_interleave(rows, dim=0)
        return StageOutcome(keep, target, self.weight.repeat_interleave(rows, dim=0), self.merges)

    def apply(self, x: Tensor) -> Tensor:
        """Return `x` `[batch, tokens, d]` with merged tokens folded into kept ones, zero elsewhere."""
        if not self.merges:
            return x
        return Reduction(self.target, self.weight, torch.ones_like(self.keep)).apply(x)


@dataclass(eq=False)
class TokenPool:
    """The visual tokens of a batch, by id, with what is known of them; stages take tokens out of it.

    Attributes:
        alive: bool `[batch, tokens]`.
        grid: int64 `[batch, tokens, 5]`.
        sizes: float64 `[batch, tokens]`, how many original tokens each stands for.
        keys: int64 `[batch]`, sample keys.
        evidence: what was learnt before the language model, by kind; made when first asked for.
    """

    alive: Tensor
    grid: Tensor
    sizes: Tensor
    keys: Tensor
    evidence: dict[Evidence, Callable[[], Value]]

    def take(self, kinds: frozenset[Evidence], fresh: Mapping[Evidence, Callable[[], Value]]) -> dict[Evidence, Value]:
        """Return evidence `[batch, tokens, ...]` of the wanted kinds; `fresh` is the site's own."""
        known: dict[Evidence, Value] = {Evidence.GRID: self.grid, Evidence.SIZES: self.sizes}
        for kind in kinds - known.keys():
            maker = fresh.get(kind) or self.evidence.get(kind)
            if maker is not None:
                known[kind] = maker()
        return known


def _groups(pool: TokenPool, per: str, judged: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids `[rows, n]`, validity `[rows, n]` and sample `[rows]` of every group of judged tokens."""
    image = pool.grid[..., 0]
    part = {"image": image * 0, "sample": image * 0, "tile": pool.grid[..., 1], "frame": pool.grid[..., 2]}[per]
    number = part if per == "sample" else image * (int(part.max()) + 1 if part.numel() else 1) + part
    sample, ids = torch.nonzero(judged, as_tuple=True)
    stride = int(number.max()) + 1 if number.numel() else 1
    groups, group, sizes = torch.unique(sample * stride + number[sample, ids], return_inverse=True, return_counts=True)
    # Stable, so ids stay ascending within a group.
    group, order = group.sort(stable=True)
    turn = torch.arange(len(group), device=ids.device) - (sizes.cumsum(0) - sizes)[group]
    width = int(sizes.max()) if len(sizes) else 0
    places = torch.zeros(len(groups), width, dtype=torch.int64, device=ids.device)
    places[group, turn] = ids[order]
    valid = torch.arange(width, device=ids.device) < sizes.unsqueeze(1)
    return places, valid, groups // stride


@torch.no_grad()
def select_stage(
    recipe: Recipe, stage: Stage, pool: TokenPool, fresh: Mapping[Evidence, Callable[[], Value]]
) -> tuple[StageOutcome, StageRecord]:
    """Select at a stage, update the pool, and return the outcome and its record.

    Args:
        recipe: for names.
        stage: what selects.
        pool: the tokens; those that leave are dead afterwards.
        fresh: evidence of the stage's own site, made when asked for.
    """
    started = _now(pool)
    newline = pool.alive & (pool.grid[..., 4] == NEWLINE)
    judged = pool.alive if stage.newlines == "judge" else pool.alive & ~newline
    if not bool(judged.any()):
        return _nothing(recipe, stage, pool)
    ids, valid, samples = _groups(pool, stage.per, judged)
    # A merger knows who joins whom; everything else joins what it resembles.
    resembles = stage.rest == "merge" and not isinstance(stage.select, Merger)
    wanted = stage.needs | ({Evidence.FEATURES} if resembles else set())
    evidence = pool.take(frozenset(wanted), fresh)
    tokens = _rows(evidence, ids, valid, samples, pool.keys)
    pinned = torch.zeros_like(pool.alive)
    budget: Tensor | None = None
    if stage.newlines == "keep":
        budget, pinned = _pin(stage, pool, newline, tokens)
    # Counted before any strategy sees the tokens.
    if budget is None and not stage.keep.auto:
        budget = counts(stage.keep, tokens.universe.counts)
    chosen, reduction = _chosen(stage, tokens, budget)
    _check_kept(recipe, stage, chosen.mask, budget)
    outcome = _outcome(stage, pool, tokens, chosen, reduction, pinned)
    elapsed = _now(pool) - started
    record = _record(recipe, stage, pool, tokens, chosen, outcome, elapsed)
    pool.sizes = Reduction(outcome.target, outcome.weight, torch.ones_like(outcome.keep)).mass(pool.sizes)
    pool.alive = outcome.keep
    return outcome, record


def _nothing(recipe: Recipe, stage: Stage, pool: TokenPool) -> tuple[StageOutcome, StageRecord]:
    """Return the outcome for a batch without tokens to judge."""
    own = torch.arange(pool.alive.shape[1], device=pool.alive.device).expand_as(pool.alive)
    outcome = StageOutcome(pool.alive, torch.where(pool.alive, own, -1), pool.alive.double(), merges=False)
    records = tuple(SampleRecord(int(row.sum()), mask_to_ids(row), {}, 0, judged=0) for row in pool.alive)
    return outcome, StageRecord(str(stage.at), recipe.formula(stage.select), str(stage.keep), records, 0.0)


def _rows(evidence: dict[Evidence, Value], ids: Tensor, valid: Tensor, samples: Tensor, keys: Tensor) -> Tokens:
    """Return the groups as tokens, with the evidence of each, in tensors that the model does not use."""
    # Where every sample is one group of all its tokens, there is nothing to gather.
    whole = all(value.shape[:2] == ids.shape for value in evidence.values() if isinstance(value, Tensor))
    if whole and len(keys) == len(ids) and bool(valid.all()):
        return Tokens(Universe(valid, ids), evidence, keys, samples).copied()
    rows = {kind: take_rows(value, samples, ids) for kind, value in evidence.items()}
    return Tokens(Universe(valid, ids), rows, keys[samples], samples)


def _pin(stage: Stage, pool: TokenPool, newline: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Return each group's budget without its newline tokens, and the newline tokens that stay.

    Newline tokens count against the budget of their image; where they alone exceed it, the first
    ones stay.
    """
    pinned = torch.zeros_like(newline)
    sizes = []
    image = pool.grid[..., 0]
    own = tokens.grid[:, :, 0]
    for row, sample in enumerate(tokens.samples.tolist()):
        of_group = newline[sample] & ((image[sample] == own[row, 0]) if stage.per != "sample" else True)
        lines = torch.nonzero(of_group).flatten()
        total = tokens.universe.counts[row] + len(lines)
        k = int(counts(stage.keep, total.reshape(1)))
        pinned[sample, lines[:k]] = True
        sizes.append(max(0, k - len(lines)))
    return torch.tensor(sizes, dtype=torch.int64, device=newline.device), pinned


def _chosen(stage: Stage, tokens: Tokens, budget: Tensor | None) -> tuple[Selection, Reduction | None]:
    """Select, and return the reduction where a merger knows it already.

    Args:
        stage: what selects.
        tokens: the groups, by ascending id, which is canonical.
        budget: a size for each group; none where a set's own size is the budget.
    """
    lone = stage.select if isinstance(stage.select, Merger) and stage.by is None else None
    if lone is not None and stage.rest == "merge" and budget is not None:
        k = torch.minimum(budget, tokens.universe.counts)
        with lone.lent(tokens.only(lone.needs | {Evidence.SIZES})) as lent:
            folded = lone.fold(lent, k)
        if folded is not None:
            if folded[0].dtype != torch.bool or folded[0].shape != tokens.valid.shape:
                raise ScoreError(
                    f"'{lone.name}' folds to {folded[0].dtype} {list(folded[0].shape)}; "
                    f"expected bool {list(tokens.valid.shape)}"
                )
            # All that stays is its own best.
            shares: dict[Expression, Tensor] = dict.fromkeys([stage.select], (k > 0).double())
            return Selection(folded[0], k, shares), folded[1]
    return select(stage.select, tokens, stage.keep if budget is None else budget, stage.by), None


def _check_kept(recipe: Recipe, stage: Stage, mask: Tensor, budget: Tensor | None) -> None:
    """Raise unless exactly the budget of every group stays, if there is one.

    Raises:
        ScoreError: naming the formula, if a strategy or composer changed the tokens or the cut.
    """
    kept = mask.sum(dim=1)
    if budget is not None and not torch.equal(kept, budget):
        raise ScoreError(
            f"'{recipe.formula(stage.select)}' at {stage.at} kept {kept.tolist()} tokens of its groups, where "
            f"the budget {stage.keep} is {budget.tolist()}: a strategy or composer in it changed the tokens "
            "that it was given, or the cut"
        )


def _check_reduction(merger: Merger, mask: Tensor, reduction: object) -> Reduction:
    """Return what a merger answered, if it maps every token to one of the kept ones or to none.

    Raises:
        ScoreError: naming the strategy, if it is anything else.
    """
    if not isinstance(reduction, Reduction):
        raise ScoreError(f"'{merger.name}' returned {type(reduction).__name__}; assign returns a Reduction")
    slot, weight = reduction.slot, reduction.weight
    if slot.shape != mask.shape or weight.shape != mask.shape or slot.dtype != torch.int64:
        raise ScoreError(
            f"'{merger.name}' returned slots as {slot.dtype} {list(slot.shape)} with weights {list(weight.shape)}; "
            f"expected int64 and one a token, {list(mask.shape)}"
        )
    beyond = (slot >= mask.sum(dim=1, keepdim=True)).any() | (slot < -1).any() | ~weight.isfinite().all()
    if bool(beyond):
        raise ScoreError(
            f"'{merger.name}' returned slots that are no number of a kept token, or weights that are not finite"
        )
    return reduction


def _outcome(
    stage: Stage, pool: TokenPool, tokens: Tokens, chosen: Selection, reduction: Reduction | None, pinned: Tensor
) -> StageOutcome:
    at = tokens.samples.unsqueeze(1).expand_as(tokens.ids)
    inside = tokens.valid
    keep = pinned.clone()
    keep[at[inside], tokens.ids[inside]] = chosen.mask[inside]
    own = torch.arange(keep.shape[1], device=keep.device).expand_as(keep)
    target = torch.where(keep, own, -1)
    weight = keep.double()
    if stage.rest == "drop" or not tokens.universe.n:
        return StageOutcome(keep, target, weight, merges=False)
    # Groups are built by ascending id, so the tokens are canonical already.
    if reduction is None and isinstance(stage.select, Merger):
        with stage.select.lent(tokens.only(stage.select.needs | {Evidence.SIZES})) as lent:
            reduction = stage.select.assign(lent, chosen.mask.sum(dim=1))
    if isinstance(stage.select, Merger):
        reduction = _check_reduction(stage.select, chosen.mask, reduction)
    if reduction is None:
        nearest_kept = nearest(tokens.features, chosen.mask)
        reduction = Reduction.merge(tokens.universe, chosen.mask, nearest_kept, tokens.sizes)
    kept_first = (~chosen.mask).to(torch.uint8).sort(dim=1, stable=True).indices
    slot_ids = tokens.ids.gather(1, kept_first)
    joined = torch.where(reduction.slot >= 0, slot_ids.gather(1, reduction.slot.clamp(min=0)), -1)
    target[at[inside], tokens.ids[inside]] = joined[inside]
    weight[at[inside], tokens.ids[inside]] = reduction.weight[inside].double()
    return StageOutcome(keep, target, weight, merges=True)


def _record(
    recipe: Recipe,
    stage: Stage,
    pool: TokenPool,
    tokens: Tokens,
    chosen: Selection,
    outcome: StageOutcome,
    seconds: float,
) -> StageRecord:
    names = recipe.names()
    sizes = chosen.mask.sum(dim=1).double()
    batch = pool.alive.shape[0]
    by_sample = torch.zeros(batch, dtype=torch.float64, device=sizes.device).index_add_(0, tokens.samples, sizes)
    shares: dict[str, list[float]] = {}
    for leaf, share in chosen.shares.items():
        agreed = torch.zeros_like(by_sample).index_add_(0, tokens.samples, share * sizes)
        name = names[leaf] if isinstance(leaf, Strategy) else "?"
        shares[name] = (agreed / by_sample.clamp(min=1)).tolist()
    depth = torch.zeros(batch, dtype=torch.int64, device=sizes.device)
    depth = depth.scatter_reduce(0, tokens.samples, chosen.depth, "amax")
    entered = pool.alive.sum(dim=1).tolist()
    depths = depth.tolist()
    judged = torch.zeros_like(depth).index_add_(0, tokens.samples, tokens.universe.counts).tolist()
    records = tuple(
        SampleRecord(
            entered[b],
            mask_to_ids(outcome.keep[b]),
            {name: values[b] for name, values in shares.items()} if entered[b] else {},
            depths[b],
            judged[b],
        )
        for b in range(batch)
    )
    return StageRecord(
        str(stage.at), format_formula(stage.select, names), str(stage.keep), records, 1000 * seconds, chosen.notes
    )


def _now(pool: TokenPool) -> float:
    """Read the clock once the device has caught up."""
    if pool.alive.is_cuda:
        torch.cuda.synchronize(pool.alive.device)
    return time.perf_counter()
