"""Reading: chains of expressions from one batch of tokens, as deep as they are needed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from copy import copy
from typing import Any, Protocol

import torch
from torch import Tensor

from tokensieve.algebra.chain import Chain
from tokensieve.composers import settings as checks
from tokensieve.errors import AlgebraError
from tokensieve.evidence import Tokens


class Readable(Hashable, Protocol):
    """What a reading asks of an expression; see `Expression`."""

    @property
    def parts(self) -> tuple[Any, ...]:
        """The expressions directly inside; none for a strategy."""
        ...

    @property
    def is_nested(self) -> bool:
        """Whether its selection at k always holds its selection at k - 1."""
        ...

    def read(self, reading: Reading, depth: int) -> Chain:
        """Return the chain over `reading.tokens`, right to at least `depth`."""
        ...

    def read_at(self, reading: Reading, k: Tensor) -> Chain:
        """Return a chain whose cut to k is the selection at k."""
        ...

    def further(self, reading: Reading, chain: Chain, k: int, depth: int) -> int:
        """Return how deep to read next, 0 where `chain` settles a cut to k."""
        ...


Source = Callable[[Any, "Reading", int], Chain]
"""Reads an expression to a depth instead of asking it; for simulations."""


class Reading:
    """Chains read from one batch of tokens; each strategy is asked once per depth.

    Attributes:
        tokens: the tokens, in canonical form.
        depth: to how many places `settled` reads at least; a formula such as `a - b[m]` looks at more of b than m.
        begun: what a strategy that reads step by step wants to find again at its next step.
    """

    def __init__(self, tokens: Tokens, source: Source | None = None, depth: int = 0) -> None:
        self.tokens = tokens
        self.depth = depth
        self._source = source
        # Each chain with the depth to which it was asked for; and those of what is not nested, by sizes.
        self._known: dict[Readable, tuple[Chain, int]] = {}
        self._at: dict[tuple[Readable, tuple[int, ...]], tuple[Chain, int]] = {}
        self.begun: dict[object, object] = {}

    def of(self, expression: Readable, depth: int) -> Chain:
        """Return the expression's chain, its strategies right to at least `depth`.

        Raises:
            AlgebraError: for a strategy that is not nested: it has a set for every size, but no chain.
        """
        if not expression.parts and not expression.is_nested:
            raise AlgebraError(checks.no_order(expression))
        asked = min(depth, self.tokens.universe.n)
        chain, known = self._known.get(expression, (None, 0))
        # What is not nested is another chain at another depth.
        if chain is None or not expression.is_nested or (max(known, chain.reach) < asked and not chain.complete):
            chain = self.ask(expression, asked)
            self._known[expression] = chain, asked
        return chain

    def known(self, expression: Readable, k: Tensor) -> Chain | None:
        """Return the chain read so far that holds for a cut to k, int64 `[rows]`, or none."""
        found = self._known.get(expression) if expression.is_nested else self._at.get((expression, tuple(k.tolist())))
        return None if found is None else found[0]

    def settled(self, expression: Readable, k: int | Tensor, depth: int = 0, largest: int | None = None) -> Chain:
        """Return a chain that can be cut to k: read deep enough, or, where it is not nested, asked at exactly k.

        Args:
            expression: what to read.
            k: a size, or one a row, int64 `[rows]`.
            depth: to how many places to read at least.
            largest: the largest k of any row, where it is known.
        """
        n = self.tokens.universe.n
        depth = min(max(depth, self.depth), n)
        if expression.is_nested:
            return self.deepened(expression, k if largest is None else largest, depth)
        counts = self.tokens.universe.counts
        sizes = counts.clamp(max=k) if isinstance(k, int) else torch.minimum(k, counts)
        key = expression, tuple(sizes.tolist())
        chain, known = self._at.get(key, (None, 0))
        if chain is None or (known < depth and not chain.complete):
            deeper = copy(self)
            deeper.depth = depth
            chain = expression.read_at(deeper, sizes)
            if depth == n and not chain.complete:
                # Its selection is right; what comes after it follows as it was read.
                chain = Chain.from_picks(chain.universe, chain.queue(), expression, chain.notes)
            self._at[key] = chain, depth
        return chain

    def ask(self, expression: Readable, depth: int) -> Chain:
        """Read an expression anew; a strategy is asked, or what stands in for it."""
        if self._source is not None and not expression.parts:
            return self._source(expression, self, depth)
        return expression.read(self, depth)

    def deepened(self, expression: Readable, k: int | Tensor, depth: int = 0) -> Chain:
        """Return the expression's chain, read deep enough to be cut to the largest k in any row, in steps."""
        n = self.tokens.universe.n
        largest = k if isinstance(k, int) else int(k.max()) if k.numel() else 0
        depth = max(1, largest, depth)
        while True:
            chain = self.of(expression, depth)
            if depth >= n:
                return chain
            further = expression.further(self, chain, largest, depth)
            if not further:
                return chain
            depth = min(n, max(further, depth + 1))

    def within(self, tokens: Tokens) -> Reading:
        """Return a reading of other tokens from the same source, to the same depth."""
        return Reading(tokens, self._source, self.depth)
