"""Expressions: strategies joined by set algebra.

An expression is a value. Reading it against tokens gives a `Chain`; `select` reads it as deep as a
budget needs and cuts it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from itertools import islice
from typing import ClassVar, Self

import torch
from torch import Tensor

from tokensieve.budget import LONGEST, Keep, counts, deal, simplest
from tokensieve.chain import Chain, at_least, fuse, interleave, noted
from tokensieve.errors import AlgebraError, FormulaError
from tokensieve.evidence import GRID_COLUMNS, Evidence, Tokens
from tokensieve.universe import Universe

Number = int | float | Fraction


class Expression(ABC):
    """What can be read as a chain: a strategy, or strategies joined by composers."""

    @property
    @abstractmethod
    def needs(self) -> frozenset[Evidence]:
        """The evidence that reading it takes."""

    @property
    @abstractmethod
    def parts(self) -> tuple[Expression, ...]:
        """The expressions directly inside; none for a strategy."""

    @property
    @abstractmethod
    def is_nested(self) -> bool:
        """Whether its selection at k always holds its selection at k - 1."""

    @abstractmethod
    def read(self, reading: Reading, depth: int) -> Chain:
        """Give the chain over `reading.tokens`, right to at least `depth`."""

    def read_at(self, reading: Reading, k: Tensor) -> Chain:
        """Give a chain whose cut to k, int64 `[rows]`, is the selection at k.

        Only what is not nested is asked this way: another k may give another chain.
        """
        return reading.deepened(self, k)

    @abstractmethod
    def written(self, name: Callable[[Expression], str]) -> str:
        """Give the formula; `name` gives the name of a strategy."""

    def strategies(self) -> tuple[Expression, ...]:
        """Give the distinct strategies inside, in the order they are written."""
        return tuple(dict.fromkeys(part for part in self.walk() if not part.parts))

    def walk(self) -> Iterator[Expression]:
        """Give this expression and every one inside it, outermost first."""
        yield self
        for part in self.parts:
            yield from part.walk()

    def __and__(self, other: Expression) -> Expression:
        return _joined(Intersection, self, other)

    def __or__(self, other: Expression) -> Expression:
        return _joined(Union, self, other)

    def __xor__(self, other: Expression) -> Expression:
        return _joined(SymmetricDifference, self, other)

    def __sub__(self, other: Expression) -> Expression:
        return _joined(Difference, self, other)

    def __rshift__(self, other: Expression) -> Expression:
        return _joined(Then, self, other)

    def __invert__(self) -> Expression:
        return Complement.of(self)

    def __getitem__(self, m: Number | str | Keep) -> Expression:
        return Best.of(self, m=Keep.of(m))


class Reading:
    """Chains read from one batch of tokens; each strategy is asked once per depth.

    Attributes:
        tokens: the tokens, in canonical form.
    """

    def __init__(self, tokens: Tokens, source: Callable[[Expression, Reading, int], Chain] | None = None) -> None:
        self.tokens = tokens
        self._source = source
        # Each chain with the depth to which it was asked for.
        self._known: dict[Expression, tuple[Chain, int]] = {}
        # Chains of what is not nested, by the sizes for which they hold.
        self._at: dict[tuple[Expression, tuple[int, ...]], Chain] = {}

    def of(self, expression: Expression, depth: int) -> Chain:
        """Give the expression's chain, its strategies right to at least `depth`.

        Raises:
            AlgebraError: for a strategy that is not nested: it has a set for every size, but no chain.
        """
        if not expression.parts and not expression.is_nested:
            raise AlgebraError(_no_order(expression))
        asked = min(depth, self.tokens.universe.n)
        chain, known = self._known.get(expression, (None, 0))
        if chain is None or (max(known, chain.reach) < asked and not chain.complete):
            if self._source is not None and not expression.parts:
                chain = self._source(expression, self, asked)
            else:
                chain = expression.read(self, asked)
            self._known[expression] = chain, asked
        return chain

    def known(self, expression: Expression, k: Tensor) -> Chain | None:
        """Give the chain read so far that holds for a cut to k, int64 `[rows]`, or none."""
        if not expression.is_nested:
            return self._at.get((expression, tuple(k.tolist())))
        return self._known[expression][0] if expression in self._known else None

    def settled(self, expression: Expression, k: int | Tensor, depth: int = 0) -> Chain:
        """Give a chain that can be cut to k: read deep enough, or, where it is not nested, asked at exactly k."""
        if expression.is_nested:
            return self.deepened(expression, k, depth)
        counts = self.tokens.universe.counts
        sizes = counts.clamp(max=k) if isinstance(k, int) else torch.minimum(k, counts)
        key = expression, tuple(sizes.tolist())
        if key not in self._at:
            self._at[key] = expression.read_at(self, sizes)
        return self._at[key]

    def asked(self, strategy: Expression, k: Tensor) -> Chain:
        """Ask a strategy at exactly k, int64 `[rows]`: rows of one size together, with the size as the depth.

        What comes after the first k places of a row follows as the strategy has it.
        """
        universe = self.tokens.universe
        picks = universe.order()
        notes: list[str] = []
        for size in k[k > 0].unique().tolist():
            rows = (k == size).nonzero().flatten()
            places = torch.arange(universe.n, device=rows.device).expand(len(rows), -1)
            some = self.within(self.tokens.take(places, torch.ones_like(places, dtype=torch.bool), rows))
            chain = strategy.read(some, size) if self._source is None else self._source(strategy, some, size)
            picks[rows] = chain.queue()
            notes += chain.notes
        return Chain.from_picks(universe, picks, strategy, tuple(dict.fromkeys(notes)))

    def deepened(self, expression: Expression, k: int | Tensor, depth: int = 0) -> Chain:
        """Give the expression's chain, read deep enough to be cut to k: the depth doubles."""
        n = self.tokens.universe.n
        first = int(k.max()) if isinstance(k, Tensor) and k.numel() else (k if isinstance(k, int) else 0)
        depth = max(1, first, depth)
        while True:
            chain = self.of(expression, depth)
            if depth >= n or chain.settled(k):
                return chain
            depth = 2 * depth

    def within(self, tokens: Tokens) -> Reading:
        """Give a reading of other tokens from the same source."""
        return Reading(tokens, self._source)


@dataclass(frozen=True)
class Composer(Expression):
    """Expressions joined into one. Subclass it to add a composer.

    A subclass sets `name` and implements `combine`, or `read` where chains alone are not enough.
    Parameters are dataclass fields with defaults, checked in `__post_init__`.
    """

    operands: tuple[Expression, ...]

    name: ClassVar[str]
    symbol: ClassVar[str | None] = None
    """The operator that is sugar for it."""
    arity: ClassVar[tuple[int, int | None]] = (2, None)
    """The fewest and the most operands."""
    nested: ClassVar[bool] = True
    """Whether nested operands make a nested result."""
    whole: ClassVar[bool] = False
    """Whether it needs all places of its operands."""
    sized: ClassVar[bool] = False
    """Whether it knows how many tokens it takes of its operands, so that these need not be nested."""

    def __post_init__(self) -> None:
        """Check the parameters. Declared here, or a subclass that adds no fields would not be checked."""

    @classmethod
    def of(cls, *operands: Expression, **parameters: object) -> Self:
        """Join `operands`.

        Raises:
            FormulaError: if there are too few or too many, or a parameter is unknown.
        """
        fewest, most = cls.arity
        if len(operands) < fewest or (most is not None and len(operands) > most):
            bound = f"{fewest}" if most == fewest else f"{fewest} or more" if most is None else f"{fewest} to {most}"
            raise FormulaError(f"{cls.name} takes {bound} operands, not {len(operands)}")
        known = cls.parameters()
        for parameter in parameters:
            if parameter not in known:
                raise FormulaError(f"{cls.name} has no parameter '{parameter}'; it has {', '.join(known) or 'none'}")
        for operand in operands:
            if not cls.sized and not operand.is_nested:
                raise FormulaError(f"{cls.name} joins orders: {_no_order(operand)}")
        return cls(operands, **parameters)

    @classmethod
    def parameters(cls) -> tuple[str, ...]:
        """Give the names of its parameters."""
        return tuple(f.name for f in fields(cls) if f.name != "operands")

    @property
    def parts(self) -> tuple[Expression, ...]:
        """The operands."""
        return self.operands

    @property
    def needs(self) -> frozenset[Evidence]:
        """What the operands need."""
        return frozenset().union(*(operand.needs for operand in self.operands))

    @property
    def is_nested(self) -> bool:
        """Whether the composer and all operands are nested."""
        return self.nested and all(operand.is_nested for operand in self.operands)

    def read(self, reading: Reading, depth: int) -> Chain:
        """Read the operands and combine their chains."""
        asked = reading.tokens.universe.n if self.whole else depth
        return self.combine([reading.of(operand, asked) for operand in self.operands])

    def combine(self, chains: Sequence[Chain]) -> Chain:
        """Join the operands' chains, which are right to the depth asked for."""
        raise NotImplementedError(f"{type(self).__name__} implements combine or read")

    def written(self, name: Callable[[Expression], str]) -> str:
        """Give the formula, with the operator where there is one."""
        operands = [operand.written(name) for operand in self.operands]
        if self.symbol is not None:
            return f"({f' {self.symbol} '.join(operands)})"
        parameters = [f"{key}={_number(getattr(self, key))}" for key in self.parameters()]
        return f"{self.name}({', '.join(operands + parameters)})"


class Intersection(Composer):
    """What all operands hold: the tokens on which they agree earliest."""

    name = "intersection"
    symbol = "&"

    def __post_init__(self) -> None:
        object.__setattr__(self, "operands", _flat(self))

    def combine(self, chains: Sequence[Chain]) -> Chain:
        """Give the largest level."""
        return at_least(len(chains), chains)


class Union(Composer):
    """What any operand holds."""

    name = "union"
    symbol = "|"

    def __post_init__(self) -> None:
        object.__setattr__(self, "operands", _flat(self))

    def combine(self, chains: Sequence[Chain]) -> Chain:
        """Give the smallest level."""
        return at_least(1, chains)


class Complement(Composer):
    """The inverse: the worst first."""

    name = "complement"
    arity = (1, 1)
    whole = True

    def combine(self, chains: Sequence[Chain]) -> Chain:
        """Turn the levels around."""
        return chains[0].complement()

    def written(self, name: Callable[[Expression], str]) -> str:
        """Give `~a`."""
        return f"~{self.operands[0].written(name)}"


class Difference(Composer):
    """`a - b` is `a & ~b`."""

    name = "difference"
    symbol = "-"
    arity = (2, 2)
    whole = True

    def combine(self, chains: Sequence[Chain]) -> Chain:
        """Intersect the first with the complement of the second."""
        return at_least(2, [chains[0], chains[1].complement()])


class SymmetricDifference(Composer):
    """`a ^ b` is `(a - b) | (b - a)`."""

    name = "symmetric_difference"
    symbol = "^"
    arity = (2, 2)
    whole = True

    def combine(self, chains: Sequence[Chain]) -> Chain:
        """Unite both differences."""
        a, b = chains
        return at_least(1, [at_least(2, [a, b.complement()]), at_least(2, [b, a.complement()])])


@dataclass(frozen=True)
class AtLeast(Composer):
    """What at least `j` operands hold; written `at_least(j, a, b, c)`."""

    j: int = 1

    name = "at_least"

    def __post_init__(self) -> None:
        most = len(self.operands)
        # A formula or a caller without type checks can bring anything.
        if type(self.j) is not int or not 1 <= self.j <= most:
            raise FormulaError(f"at_least takes 1 to {most} of {most} operands, not {self.j}")

    def combine(self, chains: Sequence[Chain]) -> Chain:
        """Give the j-th smallest level."""
        return at_least(self.j, chains)

    def written(self, name: Callable[[Expression], str]) -> str:
        """Give `at_least(j, a, b)`."""
        return f"at_least({', '.join([str(self.j), *(o.written(name) for o in self.operands)])})"


@dataclass(frozen=True)
class Best(Composer):
    """`a[m]` fixes `a` at its m best; m is a count or a fraction of the group."""

    m: Keep = Keep(count=1)

    name = "best"
    arity = (1, 1)
    sized = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "m", Keep.of(self.m))
        if self.m.auto:
            raise FormulaError("best takes a count or a fraction, not auto")

    @property
    def is_nested(self) -> bool:
        """Always: it is one set, whatever the budget."""
        return True

    def read(self, reading: Reading, depth: int) -> Chain:
        """Read the operand until its m best are settled."""
        size = counts(self.m, reading.tokens.universe.counts)
        return reading.settled(self.operands[0], size, depth).fix(size)

    def written(self, name: Callable[[Expression], str]) -> str:
        """Give `a[m]`, or `best(a, m=p/q)` where a size in brackets would be too long to be read."""
        operand = self.operands[0].written(name)
        size = str(self.m.written())
        if self.m.fraction is not None and size.endswith("%"):
            # A formula is Python, where % is another sign.
            size = f"{self.m.fraction.numerator}/{self.m.fraction.denominator}"
        if isinstance(self.operands[0], Complement):
            operand = f"({operand})"
        return f"{operand}[{size}]" if len(size) <= LONGEST else f"best({operand}, m={size})"


class Then(Composer):
    """`a[m] >> b`: b judges only what `a[m]` kept; the rest follows in a's order."""

    name = "then"
    symbol = ">>"
    arity = (2, 2)
    sized = True

    def __post_init__(self) -> None:
        if not isinstance(self.operands[0], Best):
            raise FormulaError("the left side of >> needs a size, such as a[128] >> b")

    def read(self, reading: Reading, depth: int) -> Chain:
        """Order what the first kept by the second, then the rest."""
        return self._order(
            reading, depth, lambda inner, size: inner.of(self.operands[1], min(depth, inner.tokens.universe.n))
        )

    def read_at(self, reading: Reading, k: Tensor) -> Chain:
        """Let the second choose its k of what the first kept."""
        # Where the first kept fewer than k, all of its order may be asked for.
        depth = reading.tokens.universe.n if bool((k > self._size(reading)).any()) else 0
        return self._order(reading, depth, lambda inner, size: inner.settled(self.operands[1], torch.minimum(k, size)))

    def _size(self, reading: Reading) -> Tensor:
        best = self.operands[0]
        assert isinstance(best, Best)  # noqa: S101 - established in __post_init__
        return counts(best.m, reading.tokens.universe.counts)

    def _order(self, reading: Reading, depth: int, judged: Callable[[Reading, Tensor], Chain]) -> Chain:
        best, judge = self.operands
        universe = reading.tokens.universe
        size = self._size(reading)
        first = reading.settled(best.parts[0], size, depth).ordered(best)
        queue = first.queue()
        inside = torch.arange(universe.n, device=universe.device) < size.unsqueeze(1)
        width = int(size.max()) if universe.rows else 0
        # Survivors in id order, so that the judge reads canonical tokens.
        kept = torch.zeros_like(universe.valid).scatter_(1, queue, inside) & universe.valid
        places = (~kept).to(torch.uint8).sort(dim=1, stable=True).indices[:, :width]
        survivors = reading.tokens.take(places, kept.gather(1, places))
        second = judged(reading.within(survivors), size).ordered(judge)
        picks = queue.clone()
        head = places.gather(1, second.queue())
        picks[:, :width] = torch.where(inside[:, :width], head, queue[:, :width])
        exact = universe.n if first.complete else first.depth
        right = exact if second.complete else min(exact, second.depth)
        return Chain.from_picks(universe, picks[:, :right], self, noted([first, second]))


@dataclass(frozen=True)
class Quota(Composer):
    """Deals places to a and b in the proportion `share : 1 - share`, each token once."""

    share: Fraction = Fraction(1, 2)

    name = "quota"
    arity = (2, 2)

    def __post_init__(self) -> None:
        object.__setattr__(self, "share", _fraction("quota", "share", self.share))
        if not 0 < self.share < 1:
            raise FormulaError(f"quota's share is between 0 and 1, not {self.share}")

    def combine(self, chains: Sequence[Chain]) -> Chain:
        """Interleave both orders."""
        return interleave(chains, [self.share, 1 - self.share], self)


@dataclass(frozen=True)
class Borda(Composer):
    """Ranks by the sum of places."""

    name = "borda"
    whole = True

    def combine(self, chains: Sequence[Chain]) -> Chain:
        """Fuse with equal weights."""
        return fuse(chains, [Fraction(1)] * len(chains), self)


@dataclass(frozen=True)
class Weighted(Composer):
    """Ranks by the weighted sum of places; `weights` holds one number an operand."""

    weights: tuple[Fraction, ...] = ()

    name = "weighted"
    whole = True

    def __post_init__(self) -> None:
        raw: object = self.weights
        given = raw if isinstance(raw, (tuple, list)) else (raw,)
        weights = tuple(_fraction("weighted", "weights", weight) for weight in given)
        if len(weights) != len(self.operands):
            raise FormulaError(f"weighted takes one weight an operand: {len(self.operands)}, not {len(weights)}")
        if any(weight < 0 for weight in weights) or not any(weights):
            raise FormulaError("weights are not negative and not all zero")
        object.__setattr__(self, "weights", weights)

    def combine(self, chains: Sequence[Chain]) -> Chain:
        """Fuse with the weights."""
        return fuse(chains, self.weights, self)


@dataclass(frozen=True)
class PerGroup(Composer):
    """Judges every `by` group of a row on its own and deals places between the groups.

    `by` is a grid column: image, tile, frame, row or column. Grids are numbered from the outside
    in, so tokens of one group agree on the image too, and on the tile, as far as these are outside
    of `by`. Or it is `window`: squares of `size` rows and columns of one picture. Places are dealt
    by Sainte-Laguë, and what a saturated group cannot use goes to the others. `share` says in
    which proportion: `equal`; `proportional` to the groups' sizes; or `ranked`, by how the operand
    ranks the row as a whole, where the token at place p of n adds n - p to its group's weight.
    """

    by: str = "frame"
    share: str = "equal"
    size: int = 0

    name = "per_group"
    arity = (1, 1)
    sized = True

    def __post_init__(self) -> None:
        for parameter, value, known in (
            ("by", self.by, (*GRID_COLUMNS, "window")),
            ("share", self.share, ("equal", "proportional", "ranked")),
        ):
            if value not in known:
                raise FormulaError(f"per_group's {parameter} is one of {', '.join(known)}, not '{value}'")
        # A formula or a caller without type checks can bring anything.
        if type(self.size) is not int or (self.by == "window") != (self.size > 0) or self.size < 0:
            raise FormulaError(
                f"per_group takes a size of 1 or more by=window, such as size=6, and none otherwise; not {self.size!r}"
            )
        if self.share == "ranked" and not self.operands[0].is_nested:
            raise FormulaError(f"share=ranked weighs groups by an order: {_no_order(self.operands[0])}")

    @property
    def needs(self) -> frozenset[Evidence]:
        """What the operand needs, and the grid."""
        return super().needs | {Evidence.GRID}

    def read(self, reading: Reading, depth: int) -> Chain:
        """Read the groups as rows of their own, then deal places to them."""
        groups = self._groups(reading, depth)
        inner = groups.within(reading).of(self.operands[0], depth)
        return groups.dealt(inner.ordered(self), reading.tokens.universe, depth, self)

    def read_at(self, reading: Reading, k: Tensor) -> Chain:
        """Ask every group for as many tokens as places are dealt to it."""
        universe = reading.tokens.universe
        groups = self._groups(reading, universe.n)
        dealt = [turns[:size] for turns, size in zip(groups.turns, k.tolist(), strict=True)]
        seats = [own.count(g) for own, row in zip(dealt, groups.rows, strict=True) for g in range(len(row))]
        inner = groups.within(reading).settled(
            self.operands[0], torch.tensor(seats, dtype=torch.int64, device=k.device)
        )
        return groups.dealt(inner.ordered(self), universe, universe.n, self)

    def written(self, name: Callable[[Expression], str]) -> str:
        """Give the formula; a size is there for windows only."""
        return super().written(name).replace(", size=0)", ")")

    def _groups(self, reading: Reading, depth: int) -> _Groups:
        tokens = reading.tokens
        cells = tokens.grid
        if self.by == "window":
            window = cells[..., 3:].div(self.size, rounding_mode="floor")
            cells = torch.cat([cells[..., :3], window], dim=-1)
        else:
            column = GRID_COLUMNS.index(self.by)
            # A column of the grid crosses its rows, so image, tile and frame alone can be around it.
            cells = cells[..., [*range(min(column, 3)), column]]
        points: list[list[int]] | None = None
        if self.share == "ranked":
            level = reading.of(self.operands[0], tokens.universe.n).ordered(self).level
            points = (tokens.universe.counts.unsqueeze(1) - level).tolist()
        rows, turns = [], []
        for row, (numbers, valid) in enumerate(zip(cells.tolist(), tokens.valid.tolist(), strict=True)):
            members: dict[tuple[int, ...], list[int]] = {}
            for place in range(tokens.universe.n):
                if valid[place]:
                    members.setdefault(tuple(numbers[place]), []).append(place)
            groups = [members[number] for number in sorted(members)]
            capacity = [len(group) for group in groups]
            weights = [1] * len(groups) if self.share == "equal" else capacity
            if points is not None:
                weights = [sum(points[row][place] for place in group) for group in groups]
            rows.append(groups)
            turns.append([*islice(deal([Fraction(weight) for weight in weights], capacity), depth)])
        return _Groups(rows, turns)


@dataclass(frozen=True)
class _Groups:
    """Groups of each row, as memory places in id order, and whose turn it is at each of the row's places."""

    rows: list[list[list[int]]]
    turns: list[list[int]]

    def within(self, reading: Reading) -> Reading:
        """Give a reading of every group as a row of its own."""
        device = reading.tokens.universe.device
        flat = [(row, places) for row, groups in enumerate(self.rows) for places in groups]
        width = max((len(places) for _, places in flat), default=0)
        padded = [places + [0] * (width - len(places)) for _, places in flat]
        places = torch.tensor(padded, dtype=torch.int64, device=device).reshape(len(flat), width)
        sizes = torch.tensor([len(p) for _, p in flat], dtype=torch.int64, device=device)
        rows = torch.tensor([row for row, _ in flat], dtype=torch.int64, device=device)
        valid = torch.arange(width, device=device) < sizes.unsqueeze(1)
        return Reading(reading.tokens.take(places, valid, rows), reading._source)

    def dealt(self, inner: Chain, universe: Universe, depth: int, key: Expression) -> Chain:
        """Order each row's tokens by dealing its places to its groups, whose own orders are `inner`."""
        deep = universe.n if inner.complete else inner.depth
        picks = torch.full((universe.rows, min(depth, deep, universe.n)), -1, dtype=torch.int64)
        queues = iter(inner.queue().tolist())
        for row, (groups, turns) in enumerate(zip(self.rows, self.turns, strict=True)):
            heads = [iter([group[i] for i in next(queues)[: len(group)]]) for group in groups]
            for turn, party in zip(range(picks.shape[1]), turns, strict=False):
                picks[row, turn] = next(heads[party])
        return Chain.from_picks(universe, picks.to(universe.device), key, inner.notes)


COMPOSERS: tuple[type[Composer], ...] = (
    Intersection,
    Union,
    Difference,
    SymmetricDifference,
    Complement,
    AtLeast,
    Best,
    Then,
    Quota,
    PerGroup,
    Borda,
    Weighted,
)


@dataclass(frozen=True, eq=False)
class Selection:
    """What a cut took.

    Attributes:
        mask: bool `[rows, n]`, in the memory order of the tokens given.
        depth: int64 `[rows]`, how many places of the expression were read to take them.
        shares: by strategy, float64 `[rows]`: the part of the selection that the strategy had
            among its own k best. Strategies that judged other tokens (right of `>>`, inside
            `per_group`) have none.
        notes: what the chains have to say about how they came to be, such as a fallback.
    """

    mask: Tensor
    depth: Tensor
    shares: dict[Expression, Tensor]
    notes: tuple[str, ...] = ()


def select(
    expression: Expression,
    tokens: Tokens,
    keep: Keep | Tensor,
    by: Expression | None = None,
    source: Callable[[Expression, Reading, int], Chain] | None = None,
) -> Selection:
    """Read an expression as deep as its budget needs, and cut it.

    Args:
        expression: what to read.
        tokens: the groups, in any memory order.
        keep: the budget, or a size a row, int64 `[rows]`; `auto` is a fixed set's own size.
        by: whose order breaks ties of level, instead of the default of `Chain.cut`.
        source: reads strategies instead of asking them; for simulations.

    Raises:
        AlgebraError: if `keep` is auto and the expression is not a fixed set.
    """
    canonical, order = tokens.canonical()
    reading = Reading(canonical, source)
    universe = canonical.universe
    if isinstance(keep, Tensor):
        k = torch.minimum(keep, universe.counts)
    elif keep.auto:
        chain = reading.of(expression, universe.n)
        inside = chain.level == -1
        if not bool((inside | (chain.level == universe.counts.unsqueeze(1)) | ~universe.valid).all()):
            raise AlgebraError("keep: auto is a fixed set's own size; this expression ranks tokens: give a budget")
        k = (inside & universe.valid).sum(dim=1)
    else:
        k = counts(keep, universe.counts)
    chain = reading.settled(expression, k)
    tie = None if by is None else reading.of(by, universe.n)
    mask = chain.cut(k, tie)
    deepest = torch.zeros_like(k)
    if universe.n:
        deepest = torch.where(mask, chain.level + 1, 0).amax(dim=1).clamp(max=universe.n)
    shares = {}
    for strategy in expression.strategies():
        own = reading.known(strategy, k)
        if own is not None:
            agreed = (mask & own.members(k)).sum(dim=1)
            shares[strategy] = agreed.double() / k.clamp(min=1)
    # Undo the canonical order.
    notes = noted([chain] if tie is None else [chain, tie])
    return Selection(torch.zeros_like(mask).scatter_(1, order, mask), deepest, shares, notes)


def _joined(composer: type[Composer], left: Expression, right: Expression) -> Expression:
    if not isinstance(right, Expression):
        return NotImplemented
    return composer.of(left, right)


def _no_order(expression: Expression) -> str:
    name = getattr(expression, "name", "it")
    return (
        f"'{name}' chooses another set for every budget, which is no order; say how many it takes, such as {name}[64]"
    )


def _flat(composer: Composer) -> tuple[Expression, ...]:
    """Give the operands of an associative composer, with its own kind's operands in their place."""
    sides = (side.parts if type(side) is type(composer) else (side,) for side in composer.operands)
    return tuple(operand for side in sides for operand in side)


def _fraction(composer: str, parameter: str, value: object) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, (int, float, Fraction)):
        raise FormulaError(f"{composer}'s {parameter} is a number, not {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise FormulaError(f"{composer}'s {parameter} is a finite number, not {value}")
    return simplest(value) if isinstance(value, float) else Fraction(value)


def _number(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_number(v) for v in value)}]"
    return str(value)
