"""The conformance kit for composers.

Inherit from `ComposerConformance`, name the composer, and run it with pytest:

    class TestMine(ComposerConformance):
        composer = Mine

or take the pairs of cases and laws, and run them with anything:

    for case, law in parametrize_composer_checks(Mine):
        law(case)

Every law is a function below, and is tried on every example of settings that the composer declares in `examples`, with
operands of every kind: orders with and without ties, greedy orders that are right only as deep as they are asked,
fixed sets, complements and compositions. A composer that breaks a law by design says so, with the reason, in
`known_failures`; a declared failure that does not happen is a failure.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from tokensieve.algebra.chain import Chain
from tokensieve.composers.expression import Composer, Expression, Reading
from tokensieve.composers.formula import parse
from tokensieve.composers.selection import select
from tokensieve.errors import FormulaError
from tokensieve.evidence import Evidence, Tokens
from tokensieve.plugins.checks import problem
from tokensieve.plugins.registry import Registry
from tokensieve.strategy import Chooser, Ranker, Scorer
from tokensieve.testing import laws
from tokensieve.testing.checks import LawCheck, require, require_declarations
from tokensieve.testing.samples import sample, scrambled

if TYPE_CHECKING:
    import pytest


class Ranking(Scorer):
    """An operand that ranks by one column of the features, rounded: a coarse one has many ties."""

    name = "kit_ranking"
    column: int = 0
    steps: int = 1000

    def score(self, tokens: Tokens) -> Tensor:
        """Return the rounded column."""
        return (tokens.features[..., self.column].double() * self.steps).round()


class Greedy(Ranker):
    """An operand that is right only as deep as it is asked; the places below are lower bounds."""

    name = "kit_greedy"
    column: int = 0

    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Return the first `depth` places of the order of a column."""
        whole = Chain.from_scores(tokens.universe, tokens.features[..., self.column].double(), self)
        return Chain.from_picks(tokens.universe, whole.queue()[:, : min(depth, tokens.universe.n)], self)


class Half(Chooser):
    """An operand that is a fixed set: the tokens with an even id."""

    name = "kit_half"

    def choose(self, tokens: Tokens) -> Chain:
        """Return the set."""
        return Chain.from_set(tokens.universe, (tokens.ids % 2 == 0) & tokens.valid, self)


class Shifting(Ranker):
    """An operand that is not nested: for every budget it takes other tokens."""

    name = "kit_shifting"
    nested = False

    @property
    def needs(self) -> frozenset[Evidence]:
        """Nothing."""
        return frozenset()

    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Return the order of ids, turned by the budget."""
        return Chain.from_scores(tokens.universe, (tokens.ids + depth) % (tokens.universe.n + 1), self)


@dataclass(frozen=True)
class ComposerCase:
    """A composer with settings, as the laws try it.

    Attributes:
        composer: the class.
        settings: of an example.
        join: makes the expression of some operands.
    """

    composer: type[Composer]
    settings: dict[str, Any]
    join: Callable[..., Expression]

    def __repr__(self) -> str:
        said = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        return f"{self.composer.name}({said})"

    def of(self, leaves: Sequence[Expression]) -> Expression:
        """Join `leaves`, as many as the composer takes of them at least."""
        fewest, most = self.composer.arity
        for number in range(fewest, min(len(leaves), most or len(leaves)) + 1):
            try:
                return self.join(*leaves[:number], **self.settings)
            except FormulaError:
                # Settings may fix how many operands there are.
                continue
        # Once more, for the message.
        return self.join(*leaves[:fewest], **self.settings)

    def expressions(self) -> Iterator[Expression]:
        """Return expressions of operands of every kind."""
        a, b, c = Ranking(column=0), Ranking(column=1, steps=2), Greedy(column=2)
        for leaves in (
            (a, b, c, Half()),
            (c, a, b, Half()),
            (Half(), c, a, b),
            (~a, b & c, c["1/2"], a),
            (a | c, a, ~c, b),
            (c["1/3"], Greedy(column=1), a, b),
        ):
            yield self.of(leaves)


Law = Callable[[ComposerCase], None]


def _samples() -> Iterator[Tokens]:
    for number, counts in enumerate(((3,), (7, 0, 4))):
        yield sample(counts, seed=number)


def _trials(case: ComposerCase) -> Iterator[tuple[Expression, Tokens]]:
    yield from itertools.product(case.expressions(), _samples())


def _sizes(tokens: Tokens) -> list[int]:
    """Return budgets: none, some, all but one, and more than there are."""
    n = tokens.universe.n
    return sorted({0, 1, n // 2, n - 1, n + 1})


def _some(tokens: Tokens) -> list[int]:
    """Return budgets that leave something to choose."""
    n = tokens.universe.n
    return sorted({1, n // 2 + 1})


def exact_count(case: ComposerCase) -> None:
    """A budget of k gives exactly min(k, n) tokens of every group, whatever the operands."""
    for expression, tokens in _trials(case):
        for k in _sizes(tokens):
            laws.exact(expression, tokens, k)


def nested_in_keep(case: ComposerCase) -> None:
    """With nested operands, k + 1 tokens hold the k, unless `nested` is false."""
    for expression, tokens in _trials(case):
        laws.nested(expression, tokens)


def set_by_set(case: ComposerCase) -> None:
    """Where its own set has k members, the cut to k is that set."""
    for expression, tokens in _trials(case):
        laws.set_by_set(expression, tokens)


def depth_free(case: ComposerCase) -> None:
    """How deep operands are read changes nothing, once the cut is settled; `whole = True` asks for all of it."""
    for expression, tokens in _trials(case):
        for k in _sizes(tokens):
            shallow = select(expression, tokens, torch.full_like(tokens.universe.counts, k)).mask
            deep = select(expression, tokens, torch.full_like(tokens.universe.counts, k), source=_to_the_end).mask
            laws.same_choice(tokens, shallow, deep, f"reading operands to the end, at k = {k}")


def _to_the_end(leaf: Expression, reading: Reading, depth: int) -> Chain:
    return leaf.read(reading, depth if not leaf.is_nested else reading.tokens.universe.n)


def order_free(case: ComposerCase) -> None:
    """The order of tokens in memory changes nothing."""
    for number, (expression, tokens) in enumerate(_trials(case)):
        rows, n = tokens.valid.shape
        moved = torch.stack([torch.randperm(n, generator=torch.Generator().manual_seed(number)) for _ in range(rows)])
        for k in _some(tokens):
            laws.order_free(expression, tokens, k, moved)


def padding_free(case: ComposerCase) -> None:
    """Empty places change nothing, whatever stands there."""
    for number, (expression, tokens) in enumerate(_trials(case)):
        wide, went = scrambled(tokens, 3, number)
        for k in _some(tokens):
            size = torch.full_like(tokens.universe.counts, k)
            mask = select(expression, wide, size).mask
            require(not (mask & ~wide.valid).any(), f"the cut to {k} took padding")
            laws.same_choice(tokens, select(expression, tokens, size).mask, mask.gather(1, went), "padding")


def batch_free(case: ComposerCase) -> None:
    """The other rows of the batch change nothing."""
    for expression, tokens in _trials(case):
        for k in _some(tokens):
            laws.batch_free(expression, tokens, k)


def deterministic(case: ComposerCase) -> None:
    """Asking again gives the same."""
    for expression, tokens in _trials(case):
        for k in _some(tokens):
            laws.deterministic(expression, tokens, k)


def pure(case: ComposerCase) -> None:
    """The operands' chains stay as they were: `combine` writes into none of them."""
    for expression, tokens in _trials(case):
        seen: list[tuple[Chain, Tensor]] = []

        def kept(leaf: Expression, reading: Reading, depth: int, seen: list[tuple[Chain, Tensor]] = seen) -> Chain:
            chain = leaf.read(reading, depth)
            seen.append((chain, chain.level.clone()))
            return chain

        for k in _some(tokens):
            select(expression, tokens, torch.full_like(tokens.universe.counts, k), source=kept)
        require(
            all(torch.equal(chain.level, before) for chain, before in seen), "an operand's chain was changed in place"
        )


def arity_is_kept(case: ComposerCase) -> None:
    """Fewer or more operands than `arity` allows are refused with the composer's name."""
    fewest, most = case.composer.arity
    wrong = [number for number in (fewest - 1, None if most is None else most + 1) if number is not None]
    for number in wrong:
        try:
            case.composer.of(*(Ranking(column=place) for place in range(number)), **case.settings)
        except FormulaError as error:
            require(case.composer.name in str(error), f"the refusal of {number} operands does not name it: {error}")
        else:
            raise AssertionError(f"{number} operands were taken, with arity {case.composer.arity}")


def sized_is_true(case: ComposerCase) -> None:
    """An operand that is not nested is refused, or, with `sized = True`, cut to its size whatever the budget."""
    a, b = Ranking(column=0), Ranking(column=1)
    if not case.composer.sized:
        for place in range(case.composer.arity[0]):
            leaves: list[Expression] = [a, b, a & b][: case.composer.arity[0]]
            leaves[place] = Shifting()
            try:
                case.composer.of(*leaves, **case.settings)
            except FormulaError as error:
                require("chooses another set for every budget" in str(error), f"the refusal does not say why: {error}")
            else:
                raise AssertionError("an operand that is not nested was taken, and sized is false")
        return
    taken = 0
    for pair in ((Shifting(), a), (a, Shifting())):
        try:
            expression = case.of(pair)
        except FormulaError:
            # Where an order is needed in one place, or for one setting.
            continue
        taken += 1
        for tokens in _samples():
            for k in _sizes(tokens):
                laws.exact(expression, tokens, k)
    require(taken or case.settings, "sized is true, and no operand that is not nested is taken")


def settings_are_checked(case: ComposerCase) -> None:
    """Class attributes are right, a setting nobody declared is refused, and equal settings are one value."""
    found = problem(case.composer)
    require(found is None, f"{case.composer.__name__} {found}")
    expression, again = next(case.expressions()), next(case.expressions())
    require(expression == again and hash(expression) == hash(again), "two with equal settings are not equal")
    try:
        case.composer.of(*expression.parts, nobody_declared_this=1)
    except FormulaError as error:
        require(case.composer.name in str(error), f"the refusal of a setting does not name it: {error}")
    else:
        raise AssertionError("a setting that nobody declared was taken")


def needs_are_those_of_operands(case: ComposerCase) -> None:
    """It needs what its operands need, and perhaps more."""
    for expression in case.expressions():
        for part in expression.parts:
            require(part.needs <= expression.needs, f"{expression.needs} lacks what an operand needs: {part.needs}")


def round_trip(case: ComposerCase) -> None:
    """The written formula reads back equal."""
    composers = {**Registry().composers, case.composer.name: case.composer}
    for expression in case.expressions():
        names = {leaf: f"leaf_{place}" for place, leaf in enumerate(expression.strategies())}
        formula = expression.written(names.__getitem__)
        back = parse(formula, {name: leaf for leaf, name in names.items()}.__getitem__, composers)
        require(back == expression, f"'{formula}' reads back as something else")


COMPOSER_LAWS: tuple[Law, ...] = (
    exact_count,
    nested_in_keep,
    set_by_set,
    depth_free,
    order_free,
    padding_free,
    batch_free,
    deterministic,
    pure,
    arity_is_kept,
    sized_is_true,
    settings_are_checked,
    needs_are_those_of_operands,
    round_trip,
)
"""What every composer keeps."""


class ComposerCheck(LawCheck[ComposerCase]):
    """A law that a composer is tried on."""

    def owner(self, case: ComposerCase) -> type[Composer]:
        """Return the composer."""
        return case.composer

    def examples(self, case: ComposerCase) -> tuple[ComposerCase, ...]:
        """Return a case for each of the composer's examples."""
        return _cases(case.composer, case.join)


def parametrize_composer_checks(
    composer: type[Composer], join: Callable[..., Expression] | None = None
) -> list[tuple[ComposerCase, ComposerCheck]]:
    """Return every example of settings with every law that it is to be tried on.

    Args:
        composer: the class, with its `examples`.
        join: makes an expression of operands and settings, where not any operands will do; `composer.of` by default.

    Raises:
        ValueError: if it declares no examples, or that it breaks what is none of the laws.
    """
    cases, checks = _cases(composer, join or composer.of), [ComposerCheck(law) for law in COMPOSER_LAWS]
    require_declarations(composer, [check.name for check in checks], cases)
    return [(case, check) for case in cases for check in checks]


def _cases(composer: type[Composer], join: Callable[..., Expression]) -> tuple[ComposerCase, ...]:
    return tuple(ComposerCase(composer, dict(settings), join) for settings in composer.examples)


class ComposerConformance:
    """The laws that every composer must keep, as tests.

    Attributes:
        composer: the composer under test.
    """

    composer: ClassVar[type[Composer]]

    @classmethod
    def join(cls, *operands: Expression, **settings: Any) -> Expression:
        """Return the expression of some operands; override it where not any operands will do."""
        return cls.composer.of(*operands, **settings)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make a test of every example and law."""
        if "check" in metafunc.fixturenames:
            metafunc.parametrize(
                ("case", "check"), parametrize_composer_checks(self.composer, type(self).join), ids=repr
            )

    def test_law(self, case: ComposerCase, check: ComposerCheck) -> None:
        """Try one example on one law."""
        reason = check(case)
        if reason is not None:
            import pytest

            pytest.xfail(reason)
