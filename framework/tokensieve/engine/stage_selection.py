"""Selecting at one stage: from evidence about a batch to the tokens that stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial

import numpy as np
import torch
from torch import Tensor

from tokensieve.algebra.budget import count
from tokensieve.algebra.doubts import refuse_if, settled_together
from tokensieve.algebra.reduction import Reduction, nearest
from tokensieve.algebra.universe import Universe
from tokensieve.composers.expression import Expression
from tokensieve.composers.selection import Selection, select
from tokensieve.engine.demands import Budgets, shared_budgets
from tokensieve.engine.stopwatch import Stopwatch
from tokensieve.engine.token_layout import Groups, TokenLayout
from tokensieve.errors import ScoreError
from tokensieve.evidence import Evidence, Tokens, Value, take_rows
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
        counts: how many tokens of each sample stay, where the host knows it without asking.
        joined: where tokens are merged, what each becomes part of and with which share; see `target` and `weight`.
    """

    keep: Tensor
    counts: tuple[int, ...] | None
    joined: tuple[Tensor, Tensor] | None = None

    @property
    def merges(self) -> bool:
        """Whether any token is folded into another."""
        return self.joined is not None

    @cached_property
    def target(self) -> Tensor:
        """int64 `[batch, tokens]`, the id of the token it becomes part of; itself where it stays, -1 where it goes."""
        if self.joined is not None:
            return self.joined[0]
        own = torch.arange(self.keep.shape[1], device=self.keep.device)
        return torch.where(self.keep, own, -1)

    @cached_property
    def weight(self) -> Tensor:
        """`[batch, tokens]`, with which share."""
        return self.keep.double() if self.joined is None else self.joined[1]

    def expanded(self, rows: int) -> StageOutcome:
        """Return the outcome with every sample standing `rows` times in a row."""
        if rows == 1:
            return self
        keep = self.keep.repeat_interleave(rows, dim=0)
        counts = None if self.counts is None else tuple(count for count in self.counts for _ in range(rows))
        joined = None
        if self.joined is not None:
            target, weight = self.joined
            joined = target.repeat_interleave(rows, dim=0), weight.repeat_interleave(rows, dim=0)
        return StageOutcome(keep, counts, joined)

    def apply(self, x: Tensor) -> Tensor:
        """Return `x` `[batch, tokens, d]` with merged tokens folded into kept ones, zero elsewhere."""
        if not self.merges:
            return x
        # Slots are tokens; which of them are in use is not asked.
        return Reduction(self.target, self.weight, self.keep).apply(x)


@dataclass(eq=False)
class TokenPool:
    """The visual tokens of a batch, by id, with what is known of them; stages take tokens out of it.

    Attributes:
        alive: bool `[batch, tokens]`.
        layout: where they were.
        keys: int64 `[batch]`, sample keys.
        evidence: what was learnt before the language model, by kind; made when first asked for.
        merged: gives float64 `[batch, tokens]`, how many original tokens each stands for; none while each stands for
            itself.
        whole: whether no token of the layout has left.
        counts: how many are left of each sample, where the host knows it.
        budgets: by sample key how many tokens of each group stay at a stage that meets its budget over a task.
    """

    alive: Tensor
    layout: TokenLayout
    keys: Tensor
    evidence: dict[Evidence, Callable[[], Value]]
    merged: Callable[[], Tensor] | None = None
    whole: bool = True
    counts: tuple[int, ...] | None = None
    budgets: Mapping[int, Sequence[int]] | None = None

    @property
    def sizes(self) -> Tensor:
        """float64 `[batch, tokens]`, how many original tokens each stands for; 0 where it left."""
        return self.alive.double() if self.merged is None else self.merged()

    def groups(self, stage: Stage) -> Groups:
        """Return the groups in which a stage selects."""
        judges = stage.newlines == "judge"
        if self.whole:
            return self.layout.groups(stage.per, judges)
        whole_samples = stage.per == "sample" or (stage.per == "image" and self.layout.single)
        if self.counts is not None and whole_samples and (judges or not self.layout.has_newlines):
            return Groups.of_samples(self.alive, self.counts)
        # Which tokens are left, only the device knows.
        return self.layout.groups(stage.per, judges, self.alive.cpu().numpy())

    def take(self, kinds: frozenset[Evidence], fresh: Mapping[Evidence, Callable[[], Value]]) -> dict[Evidence, Value]:
        """Return evidence `[batch, tokens, ...]` of the wanted kinds; `fresh` is the site's own."""
        known: dict[Evidence, Value] = {}
        for kind in kinds:
            if kind is Evidence.GRID:
                known[kind] = self.layout.grid.on(self.alive.device)
            elif kind is Evidence.SIZES:
                known[kind] = self.sizes
            elif maker := fresh.get(kind) or self.evidence.get(kind):
                known[kind] = maker()
        return known

    def leave(self, outcome: StageOutcome) -> None:
        """Take out what a stage removed."""
        if outcome.merges or self.merged is not None:
            # Only a later stage asks for them.
            self.merged = cache(partial(_sizes_after, outcome, self.alive, self.merged))
        self.alive, self.counts, self.whole = outcome.keep, outcome.counts, False


def _sizes_after(outcome: StageOutcome, alive: Tensor, merged: Callable[[], Tensor] | None) -> Tensor:
    """Return how many original tokens each token stands for after a stage, float64 `[batch, tokens]`."""
    sizes = alive.double() if merged is None else merged()
    if not outcome.merges:
        return sizes * outcome.keep
    return Reduction(outcome.target, outcome.weight, torch.ones_like(outcome.keep)).mass(sizes)


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
    clock = Stopwatch(pool.alive.device)
    groups = pool.groups(stage)
    if not groups.sizes:
        return _nothing(recipe, stage, pool)
    # All that is checked on the device is asked for once, at the end.
    with settled_together():
        chosen, outcome, budgets = _decide(recipe, stage, pool, groups, fresh)
    record = _record(recipe, stage, pool, groups, chosen, outcome, budgets, clock)
    pool.leave(outcome)
    return outcome, record


def decide(
    recipe: Recipe,
    stage: Stage,
    pool: TokenPool,
    groups: Groups,
    fresh: Mapping[Evidence, Callable[[], Value]],
) -> tuple[Selection, StageOutcome]:
    """Return what a stage takes of each group, and what that does to each token; the pool stays as it is.

    What the host has to know, it knows beforehand, unless a strategy or composer asks, or groups share a budget: so
    this can be traced.
    """
    chosen, outcome, _ = _decide(recipe, stage, pool, groups, fresh)
    return chosen, outcome


def _decide(
    recipe: Recipe,
    stage: Stage,
    pool: TokenPool,
    groups: Groups,
    fresh: Mapping[Evidence, Callable[[], Value]],
) -> tuple[Selection, StageOutcome, Budgets | None]:
    """Return what `decide` does, and the budgets of the groups, if there are any."""
    tokens = _rows(stage, pool, groups, fresh)
    # Counted before any strategy that selects sees the tokens.
    budgets, pinned = _budget(stage, pool, groups, tokens)
    budget = None if budgets is None else budgets.counts
    chosen, reduction = _chosen(stage, tokens, budget)
    _check_kept(recipe, stage, chosen.mask, budget)
    return chosen, _outcome(stage, pool, groups, tokens, chosen, reduction, budget, pinned), budgets


def _nothing(recipe: Recipe, stage: Stage, pool: TokenPool) -> tuple[StageOutcome, StageRecord]:
    """Return the outcome for a batch without tokens to judge."""
    outcome = StageOutcome(pool.alive, pool.counts)
    records = tuple(SampleRecord(int(row.sum()), mask_to_ids(row), {}, 0, judged=0) for row in pool.alive)
    return outcome, StageRecord(str(stage.at), recipe.formula(stage.select), str(stage.keep), records, 0.0)


def _rows(stage: Stage, pool: TokenPool, groups: Groups, fresh: Mapping[Evidence, Callable[[], Value]]) -> Tokens:
    """Return the groups as tokens, with the evidence of each, in tensors that the model does not use."""
    wanted = set(stage.needs)
    # A merger knows who joins whom; everything else joins what it resembles.
    if stage.rest == "merge" and not isinstance(stage.select, Merger):
        wanted.add(Evidence.FEATURES)
    if pool.merged is not None or stage.rest == "merge":
        wanted.add(Evidence.SIZES)
    evidence, device = pool.take(frozenset(wanted), fresh), pool.alive.device
    ids, valid, samples = (one.on(device) for one in (groups.ids, groups.valid, groups.samples))
    universe = Universe(valid, ids).knowing(groups.sizes, canonical=True)
    # Where every sample is one group of all its tokens, there is nothing to gather.
    if groups.whole and all(value.shape[:2] == ids.shape for value in evidence.values() if isinstance(value, Tensor)):
        return Tokens(universe, evidence, pool.keys, samples).copied()
    rows = {kind: take_rows(value, samples, ids) for kind, value in evidence.items()}
    # The layout is remembered for other calls: what a strategy writes into must not be it.
    return Tokens(universe.copied(), rows, pool.keys[samples], samples.clone())


def _budget(stage: Stage, pool: TokenPool, groups: Groups, tokens: Tokens) -> tuple[Budgets | None, Tensor | None]:
    """Return how many tokens of each group stay, none where a set's own size is the budget; and what stays anyway.

    Newline tokens that stay count against the budget of their image; where they alone exceed it, the first ones stay.
    """
    if stage.newlines != "keep":
        if stage.keep.mean:
            return shared_budgets(stage, tokens, groups, pool.budgets), None
        return (None, None) if stage.keep.auto else (Budgets([count(stage.keep, n) for n in groups.sizes]), None)
    alive = pool.layout.every.array if pool.whole else pool.alive.cpu().numpy()
    newline, image = alive & pool.layout.newlines, pool.layout.grid.array[..., 0]
    pinned = np.zeros_like(newline)
    budget, ids = [], groups.ids.on(torch.device("cpu")).numpy()
    for row, sample in enumerate(groups.samples.array):
        own = image[sample] == image[sample, ids[row, 0]]
        lines = np.flatnonzero(newline[sample] & (own | (stage.per == "sample")))
        k = count(stage.keep, groups.sizes[row] + len(lines))
        pinned[sample, lines[:k]] = True
        budget.append(max(0, k - len(lines)))
    return Budgets(budget), torch.from_numpy(pinned).to(pool.alive.device)


def _chosen(stage: Stage, tokens: Tokens, budget: list[int] | None) -> tuple[Selection, Reduction | None]:
    """Select, and return the reduction where a merger knows it already.

    Args:
        stage: what selects.
        tokens: the groups, by ascending id, which is canonical.
        budget: a size for each group; none where a set's own size is the budget.
    """
    lone = stage.select if isinstance(stage.select, Merger) and stage.by is None else None
    if lone is not None and stage.rest == "merge" and budget is not None:
        k = torch.tensor(budget, dtype=torch.int64, device=tokens.valid.device)
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


def _check_kept(recipe: Recipe, stage: Stage, mask: Tensor, budget: list[int] | None) -> None:
    """Refuse anything but exactly the budget of every group, if there is one.

    Raises:
        ScoreError: naming the formula, if a strategy or composer changed the tokens or the cut.
    """
    if budget is None:
        return
    kept = mask.sum(dim=1)
    # One number, where all groups have the same budget, need not be copied to the device.
    wanted = budget[0] if len(set(budget)) == 1 else torch.tensor(budget, device=mask.device)
    refuse_if(
        (kept != wanted).any(),
        lambda: ScoreError(
            f"'{recipe.formula(stage.select)}' at {stage.at} kept {kept.tolist()} tokens of its groups, where "
            f"the budget {stage.keep} is {budget}: a strategy or composer in it changed the tokens "
            "that it was given, or the cut"
        ),
    )


def _check_reduction(merger: Merger, mask: Tensor, reduction: object, budget: list[int] | None) -> Reduction:
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
    alike = budget is not None and len(set(budget)) == 1
    kept = budget[0] if budget is not None and alike else mask.sum(dim=1, keepdim=True)
    # What is not finite makes NaN of itself.
    refuse_if(
        ((slot >= kept) | (slot < -1) | (weight - weight != 0)).any(),
        lambda: ScoreError(
            f"'{merger.name}' returned slots that are no number of a kept token, or weights that are not finite"
        ),
    )
    return reduction


def _outcome(
    stage: Stage,
    pool: TokenPool,
    groups: Groups,
    tokens: Tokens,
    chosen: Selection,
    reduction: Reduction | None,
    budget: list[int] | None,
    pinned: Tensor | None,
) -> StageOutcome:
    nothing = torch.zeros_like(pool.alive) if pinned is None else pinned
    keep = groups.spread(chosen.mask, nothing)
    counts = None if budget is None or pinned is not None else tuple(groups.per_sample(budget))
    if stage.rest == "drop":
        return StageOutcome(keep, counts)
    # Groups are built by ascending id, so the tokens are canonical already.
    if reduction is None and isinstance(stage.select, Merger):
        k = chosen.mask.sum(dim=1)
        with stage.select.lent(tokens.only(stage.select.needs | {Evidence.SIZES})) as lent:
            reduction = stage.select.assign(lent, k)
    if isinstance(stage.select, Merger):
        reduction = _check_reduction(stage.select, chosen.mask, reduction, budget)
    if reduction is None:
        nearest_kept = nearest(tokens.features, chosen.mask)
        reduction = Reduction.merge(tokens.universe, chosen.mask, nearest_kept, tokens.sizes)
    kept_first = chosen.mask.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices
    slot_ids = tokens.ids.gather(1, kept_first)
    # Within its row, whatever a merger answered: that is checked later.
    slot = reduction.slot.clamp(0, tokens.universe.n - 1)
    joined = torch.where(reduction.slot >= 0, slot_ids.gather(1, slot), -1)
    share = reduction.weight.double()
    if groups.whole and not groups.padded:
        return StageOutcome(keep, counts, (joined, share))
    dropping = StageOutcome(keep, counts)
    return StageOutcome(keep, counts, (groups.spread(joined, dropping.target), groups.spread(share, dropping.weight)))


def _record(
    recipe: Recipe,
    stage: Stage,
    pool: TokenPool,
    groups: Groups,
    chosen: Selection,
    outcome: StageOutcome,
    budgets: Budgets | None,
    clock: Stopwatch,
) -> StageRecord:
    """Return the record of a stage, which is fetched from the device when it is read."""
    names = recipe.names()
    before, after, entering = pool.alive, outcome.keep, pool.counts

    def samples() -> tuple[SampleRecord, ...]:
        kept, deep = chosen.mask.sum(dim=1).tolist(), chosen.depth.tolist()
        by_sample = groups.per_sample(kept)
        depth = [0] * len(by_sample)
        for sample, one in zip(groups.samples.array.tolist(), deep, strict=True):
            depth[sample] = max(depth[sample], one)
        shares: dict[str, list[float]] = {}
        for leaf, share in chosen.shares.items():
            agreed = [0.0] * len(by_sample)
            for sample, part, size in zip(groups.samples.array.tolist(), share.tolist(), kept, strict=True):
                agreed[sample] += part * size
            name = names[leaf] if isinstance(leaf, Strategy) else "?"
            shares[name] = [one / max(size, 1) for one, size in zip(agreed, by_sample, strict=True)]
        entered = before.sum(dim=1).tolist() if entering is None else entering
        mask = after.cpu()
        return tuple(
            SampleRecord(
                entered[b],
                mask_to_ids(mask[b]),
                {name: values[b] for name, values in shares.items()} if entered[b] else {},
                depth[b],
                groups.judged[b],
            )
            for b in range(len(entered))
        )

    formula = format_formula(stage.select, names)
    shared = budgets.record(stage, groups, names) if budgets is not None else None
    notes = chosen.notes if shared is None else (*chosen.notes, shared.rule)
    return StageRecord(str(stage.at), formula, str(stage.keep), samples, clock.stop(), notes, shared)
