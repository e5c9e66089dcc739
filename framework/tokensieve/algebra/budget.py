"""Budgets: what `keep` means, and the only place where a fraction becomes a count."""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokensieve.errors import BudgetError

LONGEST = 20
_MOST = 10**9
_HELP = (
    "a budget is a count (64), a fraction (1/9), a decimal in (0, 1] (0.25), a percentage (25%) or `auto`;"
    " 1 is one token, 1.0 and 100% are all"
)
_COUNT = re.compile(r"[1-9][0-9]*")
_DECIMAL = re.compile(r"(?:0|1)?\.[0-9]+|(?:0|1)\.[0-9]*")
_RATIO = re.compile(r"([1-9][0-9]*)\s*/\s*([1-9][0-9]*)")
_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*%")
_MEAN = re.compile(r"mean\s+(.*)")


class Decimal(float):
    """A float that remembers how it was written, so that a budget can be exact."""

    text: str

    def __new__(cls, text: str) -> Decimal:
        """Read the number from its text."""
        value = super().__new__(cls, text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        value.text = text
        return value

    def __reduce__(self) -> tuple[type[Decimal], tuple[str]]:
        """Copy by the text."""
        return Decimal, (self.text,)


@dataclass(frozen=True)
class Keep:
    """How many tokens of a group stay: a count, an exact fraction, all but a few, or `auto`.

    A fraction is of the group's tokens entering the stage, rounded down, at least one. All but
    `less` of them, which recipes write as `r:`, never takes more than half of the group. `auto` is
    the set's own size and legal for one Chooser alone. Exactly one of the three is set; `auto` is
    none of them. A `mean` is a count or a fraction that several groups meet together: see `shared`
    in `tokensieve.algebra.mean_budget`.
    """

    count: int | None = None
    fraction: Fraction | None = None
    less: int | None = None
    mean: bool = False

    def __post_init__(self) -> None:
        if sum(field is not None for field in (self.count, self.fraction, self.less)) > 1:
            raise BudgetError("a budget is one of a count, a fraction and all but a few")
        for field, kind in (("count", int), ("fraction", Fraction), ("less", int)):
            value = getattr(self, field)
            if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
                raise BudgetError(
                    f"{field} is {value!r}, no {kind.__name__}; Keep.of reads texts and decimals: {_HELP}"
                )
        if self.less is not None and not 0 <= self.less <= _MOST:
            raise BudgetError(f"r {self.less} is not between 0 and {_MOST}: it is how many tokens a stage takes away")
        if self.count is not None and not 1 <= self.count <= _MOST:
            raise BudgetError(f"keep {self.count} is not between 1 and {_MOST}: {_HELP}")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise BudgetError(f"keep {self.fraction} is not in (0, 1]: {_HELP}")
        if self.mean and self.count is None and self.fraction is None:
            raise BudgetError("a mean is of a count or a fraction: mean 64, mean 1/9")

    @property
    def each(self) -> Keep:
        """The budget that every group has by itself: of a mean, what it is the mean of."""
        return replace(self, mean=False) if self.mean else self

    @property
    def auto(self) -> bool:
        """Whether the set's own size is the budget."""
        return self.count is None and self.fraction is None and self.less is None

    @classmethod
    def of(cls, value: object) -> Keep:
        """Read a budget from an int, a float, a Fraction, a text or a Keep.

        A Python float means the simplest fraction equal to it, so `1/3` is one third; a text is
        taken exactly as written.

        Raises:
            BudgetError: if it is no budget.
        """
        if isinstance(value, Keep):
            return value
        if isinstance(value, bool):
            raise BudgetError(f"keep {value!r} is a truth value: {_HELP}")
        if isinstance(value, int):
            return cls(count=value)
        if isinstance(value, Fraction):
            return cls(fraction=value)
        if isinstance(value, Decimal):
            return cls._parse(value.text)
        if isinstance(value, float):
            if not math.isfinite(value):
                raise BudgetError(f"keep {value} is not a number in (0, 1]: {_HELP}")
            return cls(fraction=simplest(value))
        if isinstance(value, str):
            return cls._parse(value)
        sweep = "; a stage has one, and a sweep over several goes in the keep of a study"
        several = sweep if isinstance(value, Sequence) else ""
        raise BudgetError(f"keep {value!r} is a {type(value).__name__}{several}: {_HELP}")

    @classmethod
    def _parse(cls, text: str) -> Keep:
        if (match := _MEAN.fullmatch(text.strip())) and not match[1].startswith("mean"):
            return replace(cls._parse(match[1]), mean=True)
        if len(text) > LONGEST:
            raise BudgetError(f"keep {text[:LONGEST]!r}... is longer than {LONGEST} characters: {_HELP}")
        body = text.strip()
        if body == "auto":
            return cls()
        if _COUNT.fullmatch(body):
            return cls(count=int(body))
        if _DECIMAL.fullmatch(body):
            return cls(fraction=Fraction(body))
        if match := _RATIO.fullmatch(body):
            return cls(fraction=Fraction(int(match[1]), int(match[2])))
        if match := _PERCENT.fullmatch(body):
            return cls(fraction=Fraction(match[1]) / 100)
        several = f"; several stand in a list: [{body}]" if "," in body else ""
        raise BudgetError(f"keep {text!r} cannot be read: {_HELP}{several}")

    def written(self) -> int | str:
        """Return the form in which a recipe writes it; all but a few are said so, and written as a stage's `r`."""
        if self.mean:
            return f"mean {self.each.written()}"
        if self.count is not None:
            return self.count
        if self.less is not None:
            return f"all but {self.less}"
        if self.fraction is None:
            return "auto"
        return "100%" if self.fraction == 1 else _written(self.fraction)

    def __str__(self) -> str:
        return str(self.written())


def simplest(value: float) -> Fraction:
    """Return the simplest fraction equal to a finite float: 1/3 where it is `1/3`, else its decimal."""
    simple = Fraction(value).limit_denominator(10_000)
    return simple if float(simple) == value else Fraction(repr(value))


def _written(value: Fraction) -> str:
    """Return a form short enough to be read again: p/q, or the decimal or percentage it came from."""
    ratio = f"{value.numerator}/{value.denominator}"
    for scaled, unit in ((value, ""), (100 * value, "%")):
        if len(ratio) <= LONGEST:
            break
        for digits in range(1, LONGEST):
            if (scaled * 10**digits).denominator == 1:
                whole, rest = divmod(int(scaled * 10**digits), 10**digits)
                decimal = f"{whole or ''}.{rest:0{digits}d}{unit}"
                ratio = decimal if len(decimal) <= LONGEST else ratio
                break
    return ratio


def count(keep: Keep, n: int) -> int:
    """Turn a budget into a number of tokens of a group of `n`.

    The only function where a fraction becomes a count: floor, at least one, at most `n`.

    Raises:
        BudgetError: for `auto`, which only a fixed set can answer, and for a mean, which several groups meet.
    """
    _refuse_mean(keep)
    if keep.count is not None:
        return min(keep.count, n)
    if keep.less is not None:
        return n - min(keep.less, n // 2)
    if keep.fraction is None:
        raise BudgetError("keep: auto is a set's own size; here a number of tokens is needed")
    return min(n, max(1, math.floor(keep.fraction * n)))


def _refuse_mean(keep: Keep) -> None:
    if keep.mean:
        raise BudgetError(
            f"keep: {keep} is a mean, which several groups meet together by their demands; of one group alone, nobody "
            "knows how many tokens stay"
        )


def counts(keep: Keep, ns: Tensor) -> Tensor:
    """Return `count(keep, n)` for every n of `ns` `[rows]`, on its device."""
    _refuse_mean(keep)
    if keep.count is not None:
        return ns.clamp(max=keep.count)
    if keep.less is not None:
        return ns - (ns // 2).clamp(max=keep.less)
    sizes = [count(keep, int(n)) for n in ns.tolist()]
    return torch.tensor(sizes, dtype=torch.int64, device=ns.device)


def average(tokens: int, layers: int, cuts: Mapping[int, int]) -> Fraction:
    """Return the mean number of visual tokens per decoder layer: what budgets at different sites are compared by.

    Args:
        tokens: visual tokens entering the language model.
        layers: how many layers it has.
        cuts: how many tokens stay at decoder.K, by K. Layers before K still process all that came before.

    Raises:
        BudgetError: if a site is not in the model, or a count is not between 1 and what enters.
    """
    total, before, left = 0, 0, tokens
    for at, keep in sorted(cuts.items()):
        if not 0 <= at < layers:
            raise BudgetError(f"there is no decoder.{at} in {layers} layers")
        if not 1 <= keep <= left:
            raise BudgetError(f"decoder.{at} is entered by {left} tokens, so it cannot keep {keep}")
        total += left * (at - before)
        before, left = at, keep
    return Fraction(total + left * (layers - before), layers)


def for_average(
    wanted: int | float | Fraction, tokens: int, layers: int, at: int, before: Mapping[int, int] | None = None
) -> int:
    """Return how many tokens must stay at decoder.`at` for a mean of `wanted` per layer, to the nearest token.

    Papers that cut inside the language model give their budgets as such a mean. Halves round down.

    Args:
        wanted: visual tokens per decoder layer, on average.
        tokens: visual tokens entering the language model.
        layers: how many layers it has.
        at: the layer before which the last cut acts.
        before: how many tokens earlier cuts leave at decoder.K, by K.

    Raises:
        BudgetError: if no count gives that mean, or an earlier cut is not possible.
    """
    earlier = dict(before or {})
    if any(site >= at for site in earlier):
        raise BudgetError(f"cuts before decoder.{at} are at smaller sites, not at {sorted(earlier)}")
    entering = earlier[max(earlier)] if earlier else tokens
    least, most = (average(tokens, layers, earlier | {at: keep}) for keep in (1, entering))
    mean = simplest(wanted) if isinstance(wanted, float) else Fraction(wanted)
    # The mean grows by the same with every token.
    found = 1 + math.ceil((mean - least) * Fraction(layers, layers - at) - Fraction(1, 2))
    if not 1 <= found <= entering:
        raise BudgetError(
            f"a mean of {float(mean):g} tokens per layer cannot be had at decoder.{at}: {tokens} tokens enter, and "
            f"in {layers} layers a cut there gives means from {float(least):g} to {float(most):g}"
        )
    return found


def apportion(weights: Sequence[Fraction | int], capacity: Sequence[int]) -> Iterator[int]:
    """Deal places to parties by Sainte-Laguë, one after the other, none beyond its capacity.

    The next place goes to the party with the largest weight / (2 seats + 1), the lowest index on
    ties. House-monotone: one place more never takes a place from anyone. What a saturated party
    cannot use goes to the others; parties of weight zero are served after all others. It takes
    O(log parties) integer operations for each place.

    Yields:
        Whose place the next one is, until everyone is saturated.
    """
    unit = math.lcm(*(weight.denominator for weight in weights))
    claims = [_Claim(int(weight * unit), 1, party) for party, weight in enumerate(weights) if capacity[party] > 0]
    heapq.heapify(claims)
    while claims:
        claim = claims[0]
        yield claim.party
        if (claim.divisor + 1) // 2 < capacity[claim.party]:
            heapq.heapreplace(claims, _Claim(claim.weight, claim.divisor + 2, claim.party))
        else:
            heapq.heappop(claims)


class _Claim(NamedTuple):
    """A party's claim to its next place: its weight / (2 seats + 1). The strongest claim is the smallest."""

    weight: int
    divisor: int
    party: int

    def __lt__(self, other: tuple[Any, ...]) -> bool:
        mine, theirs = self.weight * int(other[1]), int(other[0]) * self.divisor
        return mine > theirs or (mine == theirs and self.party < int(other[2]))
