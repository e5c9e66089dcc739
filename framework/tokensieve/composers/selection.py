"""Selecting: an expression is read as deep as its budget needs, and cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokensieve.algebra.budget import Keep, count, counts
from tokensieve.algebra.chain import Chain, noted
from tokensieve.algebra.doubts import settled_together
from tokensieve.algebra.shown import ShownSelection
from tokensieve.algebra.universe import Universe
from tokensieve.composers.expression import Expression, Reading
from tokensieve.errors import AlgebraError
from tokensieve.evidence import Tokens


@dataclass(frozen=True, eq=False, repr=False)
class Selection(ShownSelection):
    """What a cut took.

    Attributes:
        mask: bool `[rows, n]`, in the memory order of the tokens given.
        depth: int64 `[rows]`, how many places of the expression were read to take them.
        shares: by strategy, float64 `[rows]`: the part of the selection that the strategy had
            among its own k best; computed when read. Strategies that judged other tokens (right of
            `>>`, inside `per_group` or `stream`) have none.
        notes: what the chains have to say about how they came to be, such as a fallback.
    """

    mask: Tensor
    depth: Tensor
    shares: Mapping[Expression, Tensor]
    notes: tuple[str, ...] = ()


class _Shares(Mapping[Expression, Tensor]):
    """The part of a selection that each strategy had among its own k best, counted when it is asked for."""

    def __init__(self, chains: Mapping[Expression, Chain], mask: Tensor, k: Tensor) -> None:
        self._chains, self._mask, self._k = chains, mask, k
        self._known: dict[Expression, Tensor] = {}

    def __getitem__(self, strategy: Expression) -> Tensor:
        if strategy not in self._known:
            agreed = (self._mask & self._chains[strategy].members(self._k)).sum(dim=1)
            self._known[strategy] = agreed.double() / self._k.clamp(min=1)
        return self._known[strategy]

    def __iter__(self) -> Iterator[Expression]:
        return iter(self._chains)

    def __len__(self) -> int:
        return len(self._chains)


def select(
    expression: Expression,
    tokens: Tokens,
    keep: Keep | Tensor | Sequence[int],
    by: Expression | None = None,
    source: Callable[[Expression, Reading, int], Chain] | None = None,
) -> Selection:
    """Read an expression as deep as its budget needs, and cut it.

    The host waits for the device where a depth has to be found out, and once at the end for all that was checked there.

    Args:
        expression: what to read.
        tokens: the groups, in any memory order.
        keep: the budget, or a size a row, int64 `[rows]` or on the host; `auto` is a fixed set's own size.
        by: whose order breaks ties of level, instead of the default of `Chain.cut`.
        source: reads strategies instead of asking them; for simulations.

    Raises:
        AlgebraError: if `keep` is auto and the expression is not a fixed set.
    """
    with settled_together():
        return _select(expression, tokens, keep, by, source)


def _select(
    expression: Expression,
    tokens: Tokens,
    keep: Keep | Tensor | Sequence[int],
    by: Expression | None,
    source: Callable[[Expression, Reading, int], Chain] | None,
) -> Selection:
    canonical, order = tokens.canonical()
    reading = Reading(canonical, source)
    universe = canonical.universe
    k, largest = _sizes(expression, reading, keep)
    chain = reading.settled(expression, k, largest=largest)
    tie = None if by is None else reading.of(by, universe.n)
    mask = chain.cut(k, tie)
    deepest = k
    if universe.n and not chain.ranking:
        deepest = torch.where(mask, chain.level + 1, 0).amax(dim=1).clamp(max=universe.n)
    own = {strategy: reading.known(strategy, k) for strategy in expression.strategies()}
    shares = _Shares({strategy: known for strategy, known in own.items() if known is not None}, mask, k)
    notes = noted([chain] if tie is None else [chain, tie])
    # Undo the canonical order.
    taken = mask if canonical is tokens else torch.zeros_like(mask).scatter_(1, order, mask)
    return Selection(taken, deepest, shares, notes)


def _sizes(expression: Expression, reading: Reading, keep: Keep | Tensor | Sequence[int]) -> tuple[Tensor, int]:
    """Return how many tokens of each row stay, int64 `[rows]`, and the largest of these."""
    universe = reading.tokens.universe
    if isinstance(keep, Tensor):
        k = torch.minimum(keep, universe.counts)
    elif isinstance(keep, Keep) and keep.auto:
        k = _own_sizes(reading.of(expression, universe.n), universe)
    elif isinstance(keep, Keep):
        return counts(keep, universe.counts), max((count(keep, n) for n in universe.sizes), default=0)
    else:
        sizes = [min(size, n) for size, n in zip(keep, universe.sizes, strict=True)]
        if len(set(sizes)) == 1:
            return universe.counts.clamp(max=sizes[0]), sizes[0]
        return torch.tensor(sizes, dtype=torch.int64, device=universe.device), max(sizes, default=0)
    return k, int(k.max()) if k.numel() else 0


def _own_sizes(chain: Chain, universe: Universe) -> Tensor:
    """Return how many tokens a fixed set has in each row, int64 `[rows]`."""
    inside = chain.level == -1
    if not bool((inside | (chain.level == universe.counts.unsqueeze(1)) | ~universe.valid).all()):
        raise AlgebraError("keep: auto is a fixed set's own size; this expression ranks tokens: give a budget")
    return (inside & universe.valid).sum(dim=1)
