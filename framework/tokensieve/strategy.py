"""What a strategy is: how to judge tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from pydantic import ConfigDict, ValidationError
from torch import Tensor

from tokensieve.algebra.answers import check_chain
from tokensieve.algebra.budget import Keep
from tokensieve.algebra.chain import Chain
from tokensieve.algebra.doubts import refuse_if
from tokensieve.algebra.reduction import Reduction
from tokensieve.algebra.writes import unwritten
from tokensieve.composers.expression import Expression, Reading
from tokensieve.composers.settings import CLASS_ATTRIBUTES, Value, strategy_refusal
from tokensieve.errors import ScoreError, SettingError
from tokensieve.evidence import Evidence, Tokens


class Strategy(Expression, Value):
    """A way of judging tokens. Its fields are its hyper-parameters.

    Subclass `Scorer`, `Ranker` or `Chooser`, not this. A strategy sees `Tokens` only: never a
    model, a hook or a budget rule. It changes neither them nor itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, ignored_types=CLASS_ATTRIBUTES)

    name: ClassVar[str]
    """What recipes call it: a Python identifier."""
    nested: ClassVar[bool] = True
    """Whether its choice at k always holds its choice at k - 1; see `Ranker` for those of which it does not."""
    paper: ClassVar[str | None] = None
    """Where it was published."""
    complexity: ClassVar[tuple[str, str] | None] = None
    """How its time and its memory grow with the n tokens of a group, of width d, of which k are read.

    A method that needs more than O(n²) memory says so here; a test measures it.
    """
    examples: ClassVar[tuple[dict[str, object], ...]] = ({},)
    """Small settings with which the conformance kit tries it."""
    known_failures: ClassVar[Mapping[str, str]] = {}
    """The laws of the conformance kit that it breaks by design, each with the reason."""

    if TYPE_CHECKING:
        # Frozen, so pydantic makes it; only type checkers need to be told.
        def __hash__(self) -> int: ...

    @property
    def needs(self) -> frozenset[Evidence]:
        """The evidence it looks at; features unless overridden."""
        return frozenset({Evidence.FEATURES})

    @property
    def parts(self) -> tuple[Expression, ...]:
        """None: a strategy is a leaf."""
        return ()

    @property
    def is_nested(self) -> bool:
        """Whether it is declared nested."""
        return self.nested

    @classmethod
    def refused(cls, error: ValidationError) -> SettingError:
        """Return the error for settings that are wrong."""
        return SettingError(strategy_refusal(getattr(cls, "name", cls.__name__), cls.model_fields, error))

    def refusal(self, family: str) -> str | None:
        """Return why it cannot be used with the models of an adapter, by the adapter's name; None if it can."""
        return None

    def problem(self, left: Keep | None = None) -> str | None:
        """Return why a run will refuse it on any model, as far as that is known before; None if nothing is.

        Args:
            left: how many tokens of a group are left for it to judge, as in `a[left] >> it`; none if all are.
        """
        return None

    def read_at(self, reading: Reading, k: Tensor) -> Chain:
        """Judge once for every size in k: rows of one size together, with the size as the depth.

        What comes after the first k places of a row follows as the strategy has it.
        """
        if self.nested:
            return super().read_at(reading, k)
        universe = reading.tokens.universe
        picks = universe.order()
        notes: list[str] = []
        for size in k[k > 0].unique().tolist():
            rows = (k == size).nonzero().flatten()
            places = torch.arange(universe.n, device=rows.device).expand(len(rows), -1)
            some = reading.tokens.take(places, torch.ones_like(places, dtype=torch.bool), rows)
            chain = reading.within(some).ask(self, size)
            picks[rows] = chain.queue()
            notes += chain.notes
        return Chain.from_picks(universe, picks, self, tuple(dict.fromkeys(notes)))

    def read(self, reading: Reading, depth: int) -> Chain:
        """Judge the tokens with the declared evidence alone.

        Raises:
            ScoreError: naming the strategy, if it wrote into the tokens, or answered anything but a chain over them.
        """
        with self.lent(reading.tokens.only(self.needs)) as tokens:
            chain = self.judge(tokens, depth)
        return self._checked(chain, reading.tokens, "judge")

    @contextmanager
    def lent(self, tokens: Tokens) -> Iterator[Tokens]:
        """Lend tokens to the strategy for the block.

        Raises:
            ScoreError: naming the strategy, if it wrote into them.
        """
        # Tensors of inference mode do not count writes, so a strategy gets some of its own.
        if any(tensor.is_inference() for _, tensor in tokens.tensors()):
            tokens = tokens.copied()
        with self._unwritten(tokens):
            yield tokens

    @contextmanager
    def _unwritten(self, tokens: Tokens) -> Iterator[None]:
        cure = "work on a copy, such as tokens.features.clone()"
        with unwritten(tokens.tensors(), f"'{self.name}'", ScoreError, cure):
            try:
                yield
            except (OverflowError, RuntimeError) as error:
                if not isinstance(error, OverflowError) and "overflow" not in str(error):
                    raise
                raise ScoreError(f"{self!r} has a setting that is too large to compute with: {error}") from error

    def _checked(self, chain: object, tokens: Tokens, method: str) -> Chain:
        return check_chain(chain, tokens.universe, f"'{self.name}'", method, ScoreError)

    @abstractmethod
    def judge(self, tokens: Tokens, depth: int) -> Chain:
        """Return the chain, right to at least `depth`."""

    def written(self, name: Callable[[Expression], str]) -> str:
        """Return the name under which the formula knows it."""
        return name(self)


class Scorer(Strategy):
    """A strategy that gives every token a number."""

    @abstractmethod
    def score(self, tokens: Tokens) -> Tensor:
        """Return one score a token, `[rows, n]`, higher is kept; anything at invalid places."""

    def judge(self, tokens: Tokens, depth: int) -> Chain:
        """Rank by score, ties by id."""
        return Chain.from_scores(tokens.universe, self.score(tokens), self)


class Appraiser(Scorer):
    """A scorer that also says how much a group as a whole needs, so that groups can share a budget.

    A stage whose `keep` is a mean names one as its `demand`.
    """

    @abstractmethod
    def demand(self, tokens: Tokens) -> Tensor:
        """Return what each group needs in comparison with others, `[rows]`, finite and not negative.

        A group's demand depends on that group alone: not on its padding, the order in memory or the other rows.
        """


class Order(ABC):
    """An order of tokens that is found step by step, such as that of a greedy method."""

    @abstractmethod
    def to(self, depth: int) -> Chain:
        """Go on to `depth` places, at most n, and return the chain. Places found before stay as they are."""


class Ranker(Strategy):
    """A strategy that orders tokens, such as a greedy method by its order of picking.

    Where an order is found step by step, `begin` hands it out, and reading deeper goes on where it stopped; `rank` is
    then `self.begin(tokens).to(depth)`.

    If its set depends on the budget in another way, it says `nested = False`. Then it is asked for
    no depth but the budget itself, the same for all rows it sees, and its first `depth` places are
    the set. It can stand alone, under `[m]`, right of `>>`, in `per_group` and in `stream`, which know
    how many tokens they take of it; other composers refuse it.
    """

    @abstractmethod
    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Return the chain; only the first `depth` places must be right."""

    def begin(self, tokens: Tokens) -> Order | None:
        """Return the order of the tokens before its first step; by default none, and `rank` is asked for every depth.

        The order may keep the tokens, which do not change while it is read.
        """
        return None

    def judge(self, tokens: Tokens, depth: int) -> Chain:
        """Rank, and check the depth."""
        return self._deep(self._checked(self.rank(tokens, depth), tokens, "rank"), depth)

    def read(self, reading: Reading, depth: int) -> Chain:
        """Go on with the order where it was read before, or rank."""
        if not self.nested:
            return super().read(reading, depth)
        if self not in reading.begun:
            lent = reading.tokens.only(self.needs)
            with self.lent(lent) as tokens:
                order = self.begin(tokens)
            reading.begun[self] = None if order is None else (order, tokens)
        begun = reading.begun[self]
        if begun is None:
            return super().read(reading, depth)
        order, tokens = cast("tuple[Order, Tokens]", begun)
        with self._unwritten(tokens):
            chain = order.to(depth)
        return self._deep(self._checked(chain, reading.tokens, "rank"), depth)

    def _deep(self, chain: Chain, depth: int) -> Chain:
        if chain.depth < depth and not chain.complete:
            raise ScoreError(f"{self.name} was asked for {depth} places and gave {chain.depth}")
        return chain


class Chooser(Strategy):
    """A strategy that chooses a set of its own size."""

    @abstractmethod
    def choose(self, tokens: Tokens) -> Chain:
        """Return the fixed set, by `Chain.from_set`."""

    def judge(self, tokens: Tokens, depth: int) -> Chain:
        """Choose, and check that it is a set."""
        chain = self._checked(self.choose(tokens), tokens, "choose")
        inside = chain.level == -1
        outside = chain.level == chain.universe.counts.unsqueeze(1)
        refuse_if(
            (tokens.valid & ~inside & ~outside).any(),
            lambda: ScoreError(f"{self.name} is a Chooser but gave a ranking; use Chain.from_set"),
        )
        return chain


class Merger(Ranker):
    """A strategy that also says how the tokens it drops are folded into those it keeps."""

    @abstractmethod
    def assign(self, tokens: Tokens, keep: Tensor) -> Reduction:
        """Return the reduction to `keep` tokens a row, int64 `[rows]`.

        Its slots are the tokens of `rank(...).cut(keep)`, in id order.
        """

    def fold(self, tokens: Tokens, keep: Tensor) -> tuple[Tensor, Reduction] | None:
        """Return what `rank(...).cut(keep)` and `assign(tokens, keep)` give, where both at once are less work.

        A stage that merges by this strategy alone then asks for no order. By default both are asked.

        Args:
            tokens: in canonical form.
            keep: int64 `[rows]`, at most as many as a row has.

        Returns:
            Bool `[rows, n]`, the tokens that stay, and the reduction to them; or none.
        """
        return None
