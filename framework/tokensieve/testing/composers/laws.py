"""The laws on composers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from tokensieve.algebra.chain import Chain
from tokensieve.composers.expression import Expression, Reading
from tokensieve.composers.formula import parse
from tokensieve.composers.selection import select
from tokensieve.errors import FormulaError
from tokensieve.evidence import Tokens
from tokensieve.plugins.checks import problem
from tokensieve.plugins.registry import Registry
from tokensieve.testing import laws
from tokensieve.testing.checks import cured_by, note_input, require
from tokensieve.testing.composers.cases import ComposerCase, Ranking, Shifting
from tokensieve.testing.samples import sample, scrambled


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


@cured_by(
    "return a chain over all tokens of the operands, as `at_least`, `interleave` and `fuse` do; if it turns an "
    "order around (`complement`), set `whole = True`",
    raised=True,
)
def exact_count(case: ComposerCase) -> None:
    """A budget of k gives exactly min(k, n) tokens of every group, whatever the operands."""
    for expression, tokens in _trials(case):
        with note_input(repr(expression)):
            for k in _sizes(tokens):
                laws.exact(expression, tokens, k)


@cured_by(
    "let no level depend on `depth`; if a larger budget may take tokens away by design, set `nested = False` and "
    "implement `read_at`"
)
def nested_in_keep(case: ComposerCase) -> None:
    """With nested operands, k + 1 tokens hold the k, unless `nested` is false."""
    for expression, tokens in _trials(case):
        with note_input(repr(expression)):
            laws.nested(expression, tokens)


@cured_by(
    "let no level depend on `depth`, and give each token the first m at which it is in the set as its level; if "
    "there are no such sets, set `nested = False` and implement `read_at`"
)
def set_by_set(case: ComposerCase) -> None:
    """Where its own set has k members, the cut to k is that set."""
    for expression, tokens in _trials(case):
        with note_input(repr(expression)):
            laws.set_by_set(expression, tokens)


@cured_by("set `whole = True`: the composer looks at the end of an order, as `complement` does", raised=True)
def depth_free(case: ComposerCase) -> None:
    """How deep operands are read changes nothing, once the cut is settled; `whole = True` asks for all of it."""
    for expression, tokens in _trials(case):
        with note_input(repr(expression)):
            for k in _sizes(tokens):
                shallow = select(expression, tokens, torch.full_like(tokens.universe.counts, k)).mask
                deep = select(expression, tokens, torch.full_like(tokens.universe.counts, k), source=_to_the_end).mask
                laws.same_choice(tokens, shallow, deep, f"reading operands to the end, at k = {k}")


def _to_the_end(leaf: Expression, reading: Reading, depth: int) -> Chain:
    return leaf.read(reading, depth if not leaf.is_nested else reading.tokens.universe.n)


@cured_by("take no token by its column, such as `level[:, 0]`; a token's place in its prompt is `tokens.ids`")
def order_free(case: ComposerCase) -> None:
    """The order of tokens in memory changes nothing."""
    for number, (expression, tokens) in enumerate(_trials(case)):
        with note_input(repr(expression)):
            rows, n = tokens.valid.shape
            moved = torch.stack(
                [torch.randperm(n, generator=torch.Generator().manual_seed(number)) for _ in range(rows)]
            )
            for k in _some(tokens):
                laws.order_free(expression, tokens, k, moved)


@cured_by("look at nothing beyond `tokens.valid`: leave out `~tokens.valid` before a mean, minimum, sort or softmax")
def padding_free(case: ComposerCase) -> None:
    """Empty places change nothing, whatever stands there."""
    for number, (expression, tokens) in enumerate(_trials(case)):
        with note_input(repr(expression)):
            wide, went = scrambled(tokens, 3, number)
            for k in _some(tokens):
                size = torch.full_like(tokens.universe.counts, k)
                mask = select(expression, wide, size).mask
                require(not (mask & ~wide.valid).any(), f"the cut to {k} took padding")
                laws.same_choice(tokens, select(expression, tokens, size).mask, mask.gather(1, went), "padding")


@cured_by(
    "reduce over the tokens of a row (`dim=1`), never over rows, and count by `tokens.universe.counts`, not by "
    "`tokens.universe.n`, the width of the batch"
)
def batch_free(case: ComposerCase) -> None:
    """The other rows of the batch change nothing."""
    for expression, tokens in _trials(case):
        with note_input(repr(expression)):
            for k in _some(tokens):
                laws.batch_free(expression, tokens, k)


@cured_by(
    "keep nothing between calls, and draw random numbers from `tokensieve.algebra.universe.draw(seed, "
    "tokens.keys, tokens.ids)`"
)
def deterministic(case: ComposerCase) -> None:
    """Asking again gives the same."""
    for expression, tokens in _trials(case):
        with note_input(repr(expression)):
            for k in _some(tokens):
                laws.deterministic(expression, tokens, k)


@cured_by(
    "write into no operand's `level`: `level + 1`, not `level.add_(1)`; `level.clone()` where you must", raised=True
)
def pure(case: ComposerCase) -> None:
    """The operands' chains stay as they were: `combine` writes into none of them."""
    for expression, tokens in _trials(case):
        with note_input(repr(expression)):
            seen: list[tuple[Chain, Tensor]] = []

            def kept(leaf: Expression, reading: Reading, depth: int, seen: list[tuple[Chain, Tensor]] = seen) -> Chain:
                chain = leaf.read(reading, depth)
                seen.append((chain, chain.level.clone()))
                return chain

            for k in _some(tokens):
                select(expression, tokens, torch.full_like(tokens.universe.counts, k), source=kept)
            require(
                all(torch.equal(chain.level, before) for chain, before in seen),
                "an operand's chain was changed in place",
            )


@cured_by("set `arity` to the fewest and the most operands, and do not override `of`, which checks them")
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


@cured_by(
    "set `sized = False`; or, if operands get a known number of places, read them by `reading.settled(operand, size)`"
)
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


@cured_by(
    "make every setting a field with a type and a default, and do not override `of`, which checks them", raised=True
)
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


@cured_by("return `super().needs | {...}` where you override `needs`")
def needs_are_those_of_operands(case: ComposerCase) -> None:
    """It needs what its operands need, and perhaps more."""
    for expression in case.expressions():
        for part in expression.parts:
            require(part.needs <= expression.needs, f"{expression.needs} lacks what an operand needs: {part.needs}")


@cured_by("make every setting a field of numbers, words or tuples of these, and do not override `written`", raised=True)
def round_trip(case: ComposerCase) -> None:
    """The written formula reads back equal."""
    composers = {**Registry().composers, case.composer.name: case.composer}
    for expression in case.expressions():
        names = {leaf: f"leaf_{place}" for place, leaf in enumerate(expression.strategies())}
        formula = expression.written(names.__getitem__)
        back = parse(formula, {name: leaf for leaf, name in names.items()}.__getitem__, composers)
        require(back == expression, f"'{formula}' reads back as something else")
