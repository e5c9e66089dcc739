"""What composers are tried on: operands of every kind, and settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tokensieve.algebra.chain import Chain
from tokensieve.composers.expression import Composer, Expression
from tokensieve.errors import FormulaError
from tokensieve.evidence import Evidence, Tokens
from tokensieve.strategy import Chooser, Ranker, Scorer


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
