"""Expressions: strategies joined by set algebra.

An expression is a value. Reading it against tokens gives a `Chain`; `select` reads as deep as a budget needs, and cuts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar, Never, Self

import torch
from pydantic import ConfigDict, ValidationError, field_validator, model_validator
from torch import Tensor

from tokensieve.algebra.answers import combined
from tokensieve.algebra.budget import LONGEST, Keep, counts
from tokensieve.algebra.chain import Chain, at_least, noted
from tokensieve.composers import meeting
from tokensieve.composers import settings as checks
from tokensieve.composers.reading import Reading as Reading
from tokensieve.errors import FormulaError
from tokensieve.evidence import Evidence


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
        """Return the chain over `reading.tokens`, right to at least `depth`."""

    def read_at(self, reading: Reading, k: Tensor) -> Chain:
        """Return a chain whose cut to k, int64 `[rows]`, is the selection at k.

        Only what is not nested is asked this way: another k may give another chain.
        """
        return reading.deepened(self, k)

    def further(self, reading: Reading, chain: Chain, k: int, depth: int) -> int:
        """Return how deep to read next, because `chain`, read to `depth`, does not settle a cut to k; 0 if it does.

        The answer is more than `depth`. Reading goes on where it stopped if the strategies inside can, so what is read
        too deep is the cost of a large step, and what is asked is that of a small one.
        """
        return 0 if chain.settled(k) else 2 * depth

    @abstractmethod
    def written(self, name: Callable[[Expression], str]) -> str:
        """Return the formula; `name` gives the name of a strategy."""

    def strategies(self) -> tuple[Expression, ...]:
        """Return the distinct strategies inside, in the order they are written."""
        return tuple(dict.fromkeys(part for part in self.walk() if not part.parts))

    def walk(self) -> Iterator[Expression]:
        """Return this expression and every one inside it, outermost first."""
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

    def _no_arithmetic(self, _: object) -> Never:
        raise FormulaError(
            "strategies are joined by & | ^ - >> ~, not by + or *: fuse ranks by the composers borda and weighted, "
            "such as weighted(a, b, weights=[2, 1]) in a formula"
        )

    __add__ = __radd__ = __mul__ = __rmul__ = _no_arithmetic

    def __bool__(self) -> Never:
        """Raise: `a and b` would silently be `b`."""
        raise FormulaError("an expression is neither true nor false: write a & b for and, a | b for or, ~a for not")

    def __getitem__(self, m: int | float | Fraction | str | Keep) -> Expression:
        return Best.of(self, m=Keep.of(m))


class Composer(Expression, checks.Value):
    """Expressions joined into one. Subclass it to add a composer; its fields are its settings, as those of a strategy.

    A subclass sets `name` and implements `combine`, or `read` where chains alone are not enough. Every setting has a
    type and a default, `n: int = 16`; pydantic checks what a formula says. docs/howto/composer.md goes through it, and
    explains `arity`, `whole`, `nested` and `sized`.

    Attributes:
        operands: what is joined.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True, ignored_types=checks.CLASS_ATTRIBUTES
    )

    operands: tuple[Expression, ...]

    name: ClassVar[str]
    """What formulas call it: a Python identifier."""
    symbol: ClassVar[str | None] = None
    """The operator that is sugar for it."""
    arity: ClassVar[tuple[int, int | None]] = (2, None)
    """The fewest and the most operands; none for any number."""
    nested: ClassVar[bool] = True
    """Whether nested operands make a nested result: a larger budget takes no token away."""
    whole: ClassVar[bool] = False
    """Whether it needs all places of its operands, whatever the budget."""
    sized: ClassVar[bool] = False
    """Whether it knows how many tokens it takes of its operands, so that these need not be nested."""
    examples: ClassVar[tuple[dict[str, object], ...]] = ({},)
    """Small settings with which the conformance kit tries it."""
    known_failures: ClassVar[Mapping[str, str]] = {}
    """The laws of the conformance kit that it breaks by design, each with the reason."""

    if TYPE_CHECKING:
        # Frozen, so pydantic makes it; only type checkers need to be told.
        def __hash__(self) -> int: ...

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: object) -> None:
        checks.refuse_post_init(cls)

    @model_validator(mode="before")
    @classmethod
    def _fit_settings(cls, data: object) -> object:
        """Read settings as a formula writes them: it has no lists, floats or members of enumerations."""
        return checks.fit_all(data, cls.model_fields)

    @model_validator(mode="after")
    def _check_operands(self) -> Self:
        obstacles = [None if self.sized or one.is_nested else checks.no_order(one) for one in self.operands]
        checks.check_operands(self.name, self.arity, obstacles)
        return self

    @classmethod
    def of(cls, *operands: Expression, **settings: object) -> Self:
        """Join `operands`.

        Raises:
            FormulaError: if there are too few or too many operands, or a setting is unknown or wrong.
        """
        checks.check_arguments(cls.name, cls.parameters(), settings, operands, Expression)
        return cls(operands=operands, **settings)

    @classmethod
    def refused(cls, error: ValidationError) -> FormulaError:
        """Return the error for settings or operands that are wrong."""
        return FormulaError(checks.refusal(cls.name, error))

    @classmethod
    def parameters(cls) -> tuple[str, ...]:
        """Return the names of its settings."""
        return tuple(name for name in cls.model_fields if name != "operands")

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

    def __str__(self) -> str:
        return self.written(repr)

    def read(self, reading: Reading, depth: int) -> Chain:
        """Read the operands and combine their chains."""
        asked = reading.tokens.universe.n if self.whole else depth
        chains = [reading.of(operand, asked) for operand in self.operands]
        return combined(self.combine, chains, reading.tokens.universe, f"the composer '{self.name}'")

    def combine(self, chains: Sequence[Chain]) -> Chain:
        """Join the operands' chains, which are right to the depth asked for."""
        raise NotImplementedError(f"{type(self).__name__} implements combine or read")

    def written(self, name: Callable[[Expression], str]) -> str:
        """Return the formula, with the operator where there is one."""
        operands = [operand.written(name) for operand in self.operands]
        if self.symbol is not None:
            return f"({f' {self.symbol} '.join(operands)})"
        settings = [f"{key}={checks.write_value(getattr(self, key))}" for key in self.parameters()]
        return f"{self.name}({', '.join(operands + settings)})"


def _flat(cls: type[Composer], operands: tuple[Expression, ...]) -> tuple[Expression, ...]:
    """Put the operands of an associative composer's own kind in their place."""
    return tuple(part for side in operands for part in (side.parts if type(side) is cls else (side,)))


class Intersection(Composer):
    """What all operands hold: the tokens on which they agree earliest."""

    name = "intersection"
    symbol = "&"

    _flatten = field_validator("operands")(_flat)

    def combine(self, chains: Sequence[Chain]) -> Chain:
        """Return the largest level."""
        return at_least(len(chains), chains)

    def further(self, reading: Reading, chain: Chain, k: int, depth: int) -> int:
        """Return where k tokens are expected to be in all operands, from the orders known so far."""
        known = [reading.of(operand, depth) for operand in self.operands]
        if not all(one.ranking for one in known):
            return super().further(reading, chain, k, depth)
        return meeting.further(known, k, depth)


class Union(Composer):
    """What any operand holds."""

    name = "union"
    symbol = "|"

    _flatten = field_validator("operands")(_flat)

    def combine(self, chains: Sequence[Chain]) -> Chain:
        """Return the smallest level."""
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
        """Return `~a`."""
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


class Best(Composer):
    """`a[m]` fixes `a` at its m best.

    Attributes:
        m: how many tokens: a count, or a fraction of the group.
    """

    m: Keep = Keep(count=1)

    name = "best"
    arity = (1, 1)
    examples = ({}, {"m": "1/2"})
    sized = True

    @field_validator("m", mode="before")
    @classmethod
    def _size(cls, value: object) -> Keep:
        size = Keep.of(value)
        if size.auto or size.mean:
            raise ValueError(f"best takes a count or a fraction, not {size}")
        return size

    @property
    def is_nested(self) -> bool:
        """Always: it is one set, whatever the budget."""
        return True

    def read(self, reading: Reading, depth: int) -> Chain:
        """Read the operand until its m best are settled."""
        size = counts(self.m, reading.tokens.universe.counts)
        return reading.settled(self.operands[0], size, depth).fix(size)

    def written(self, name: Callable[[Expression], str]) -> str:
        """Return `a[m]`, or `best(a, m=p/q)` where a size in brackets would be too long to be read."""
        operand = self.operands[0].written(name)
        size = checks.write_size(self.m)
        if isinstance(self.operands[0], Complement):
            operand = f"({operand})"
        return f"{operand}[{size}]" if len(size) <= LONGEST else f"best({operand}, m={size})"


class Then(Composer):
    """`a[m] >> b`: b judges only what `a[m]` kept; the rest follows in a's order."""

    name = "then"
    symbol = ">>"
    arity = (2, 2)
    sized = True

    @field_validator("operands")
    @classmethod
    def _sized_left(cls, operands: tuple[Expression, ...]) -> tuple[Expression, ...]:
        if operands and not isinstance(operands[0], Best):
            raise ValueError("the left side of >> needs a size, such as a[128] >> b")
        return operands

    def read(self, reading: Reading, depth: int) -> Chain:
        """Order what the first kept by the second, then the rest."""
        return self._order(
            reading, depth, lambda inner, size: inner.of(self.operands[1], min(depth, inner.tokens.universe.n))
        )

    def read_at(self, reading: Reading, k: Tensor) -> Chain:
        """Let the second choose its k of what the first kept."""
        # Where the first kept fewer than k, all of its order may be asked for.
        depth = reading.tokens.universe.n if bool((k > self._size(reading)).any()) else reading.depth
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


def _joined(composer: type[Composer], left: Expression, right: Expression) -> Expression:
    _refuse_text(right)
    if not isinstance(right, Expression):
        return NotImplemented
    return composer.of(left, right)


def _refuse_text(right: object) -> None:
    if isinstance(right, str):
        raise FormulaError(
            f"{right!r} is text, and operators join strategies; a formula as text is read where a recipe is wanted, "
            "such as prune(model, 'gsp & qcsp', keep=64)"
        )
