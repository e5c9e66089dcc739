"""The conformance kit for strategies.

Inherit from `StrategyConformance`, name the strategy, and run it with pytest:

    class TestMine(StrategyConformance):
        strategy = Mine

or take the pairs of instances and checks, and run them with anything:

    for instance, check in parametrize_strategy_checks(Mine):
        check(instance)

Every law is a function below, and is tried on every instance that the strategy declares in `examples`.
A strategy that breaks a law by design says so, with the reason, in `known_failures`; a declared failure
that does not happen is a failure. The samples are drawn from fixed seeds, so a verdict does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from tokensieve.algebra.budget import Keep
from tokensieve.algebra.chain import Chain
from tokensieve.algebra.reduction import Reduction
from tokensieve.composers.expression import Expression, Reading
from tokensieve.composers.selection import select
from tokensieve.errors import MissingEvidenceError
from tokensieve.evidence import Evidence, Tokens
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.recipe import Recipe
from tokensieve.strategy import Chooser, Merger, Scorer, Strategy
from tokensieve.testing import laws
from tokensieve.testing.samples import (
    alike,
    changed,
    hard,
    parts,
    pool,
    sample,
    scrambled,
    with_parts,
)

if TYPE_CHECKING:
    import pytest

Law = Callable[[Any], None]


@dataclass(frozen=True)
class Check:
    """A law that a strategy is tried on.

    Attributes:
        law: raises where an instance breaks it.
    """

    law: Law

    @property
    def name(self) -> str:
        """What `known_failures` calls it."""
        return self.law.__name__

    def __repr__(self) -> str:
        return self.name

    def __call__(self, strategy: Strategy) -> str | None:
        """Try an instance.

        Returns:
            The declared reason where the law is broken as declared, else nothing.

        Raises:
            AssertionError: if the law is broken and nothing was declared, or declared and kept by
                this instance and by every other example of its class.
        """
        reason = type(strategy).known_failures.get(self.name)
        if reason is None:
            self.law(strategy)
            return None
        if any(self._breaks(one) for one in (strategy, *_examples(type(strategy)))):
            return reason
        raise AssertionError(
            f"{type(strategy).__name__} declares that it breaks {self.name} ({reason}), but keeps it; "
            "take that out of known_failures"
        )

    def _breaks(self, strategy: Strategy) -> bool:
        try:
            self.law(strategy)
        # A law may be broken by any error that the strategy raises.
        except Exception:
            return True
        return False


def parametrize_strategy_checks(*strategies: type[Strategy] | Strategy) -> list[tuple[Strategy, Check]]:
    """Return every instance with every check that it is to be tried on.

    Args:
        strategies: classes, which stand for their `examples`, or instances.

    Raises:
        ValueError: if a class has no examples, or declares that it breaks what is none of its laws, or
            a law without a reason.
    """
    pairs: list[tuple[Strategy, Check]] = []
    for given in strategies:
        cls = given if isinstance(given, type) else type(given)
        instances = _examples(cls) if isinstance(given, type) else (given,)
        if not instances:
            raise ValueError(f"{cls.__name__} declares no examples, so it would not be tried; give instances of it")
        checks = [Check(law) for law in laws_of(cls)]
        known = [check.name for check in checks]
        for name, reason in cls.known_failures.items():
            if name not in known:
                raise ValueError(
                    f"{cls.__name__} declares that it breaks '{name}', which is none of its laws: {', '.join(known)}"
                )
            if not reason.strip():
                raise ValueError(f"{cls.__name__} declares that it breaks {name}, and not why")
        pairs += [(instance, check) for instance in instances for check in checks]
    return pairs


class StrategyConformance:
    """The laws that every strategy must keep, as tests.

    Attributes:
        strategy: the strategy under test.
    """

    strategy: ClassVar[type[Strategy]]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make a test of every instance and law."""
        if "check" in metafunc.fixturenames:
            metafunc.parametrize(("instance", "check"), parametrize_strategy_checks(self.strategy), ids=repr)

    def test_law(self, instance: Strategy, check: Check) -> None:
        """Try one instance on one law."""
        reason = check(instance)
        if reason is not None:
            import pytest

            pytest.xfail(reason)


# ------------------------------------------------------------------------------------ how many


def exact_count(strategy: Strategy) -> None:
    """A budget of k gives exactly min(k, n) tokens of every group, and no padding."""
    for what, tokens in pool():
        with _about(what):
            for k in _all_sizes(tokens):
                laws.exact(strategy, tokens, k)


def tiny(strategy: Strategy) -> None:
    """Groups of no token, one and two; budgets of none, all and one more than there are."""
    for counts in ([], [0], [1], [0, 1], [2, 0, 1], [1, 1]):
        with _about(f"sample({counts})"):
            for k in range(4):
                laws.exact(strategy, sample(counts), k)


def hard_inputs(strategy: Strategy) -> None:
    """The inputs on which published code fails: copies, zeros, low rank, bfloat16, huge vectors, no text."""
    for what, tokens in hard():
        with _about(what):
            n = tokens.universe.n
            for k in sorted({0, 1, n // 2, n, n + 1}):
                laws.exact(strategy, tokens, k)
                if isinstance(strategy, Merger):
                    weight = _assigned(strategy, tokens, k).weight
                    _hold(weight.isfinite().all(), "a weight is not finite")


def no_repeats(strategy: Strategy) -> None:
    """However many tokens are copies of each other, each is chosen once."""
    for seed in range(3):
        with _about(f"sample([8, 5], 'duplicates', {seed})"):
            tokens = sample([8, 5], "duplicates", seed)
            for k in range(10):
                laws.exact(strategy, tokens, k)


def nested_in_keep(strategy: Strategy) -> None:
    """A budget of k + 1 gives what k gives and one more, unless `nested` is false."""
    for what, tokens in pool():
        with _about(what):
            laws.nested(strategy, tokens)


def depth_free(strategy: Strategy) -> None:
    """How deep a ranking is read changes nothing, if it is nested: neither alone nor beside another."""
    for what, tokens in pool() if strategy.is_nested else ():
        with _about(what):
            for k in _sizes(tokens)[:2]:
                laws.depth_free(strategy, tokens, k)
                # An intersection asks for more places than it takes.
                laws.depth_free(strategy & _Last(), tokens, k)


def own_size(strategy: Strategy) -> None:
    """`keep: auto` gives the chosen set, and so does its size as a budget."""
    for what, tokens in pool():
        with _about(what):
            chosen = select(strategy, tokens, Keep.of("auto")).mask
            again = select(strategy, tokens, chosen.sum(dim=1)).mask
            _hold(not (chosen & ~tokens.valid).any(), "the chosen set holds places where there is no token")
            _hold(torch.equal(chosen, again), "a budget of the set's own size gives another set")


# ----------------------------------------------------------------------------- what does not matter


def order_free(strategy: Strategy) -> None:
    """The order of tokens in memory changes nothing, nor that of what stands at empty places."""
    for seed, (what, tokens) in enumerate(pool()):
        with _about(what):
            g = torch.Generator().manual_seed(seed)
            turned = torch.stack([torch.randperm(tokens.universe.n, generator=g) for _ in tokens.valid])
            for k in _sizes(tokens):
                laws.order_free(strategy, tokens, k, turned, _scores(strategy, tokens))


def padding_free(strategy: Strategy) -> None:
    """Places without a token change nothing, whatever stands there, NaN included."""
    for seed, (what, tokens) in enumerate(pool()):
        with _about(what):
            extra, scores = 1 + seed % 3, _scores(strategy, tokens)
            moved, went = scrambled(tokens, extra, seed)
            for k in _sizes(tokens):
                laws.padding_free(strategy, tokens, k, extra, (7, -1000)[seed % 2], scores)
                found = _chosen(strategy, moved, k).gather(1, went)
                laws.same_choice(tokens, _chosen(strategy, tokens, k), found, "NaN at empty places", scores)


def batch_free(strategy: Strategy) -> None:
    """A row alone is judged as in the batch."""
    for what, tokens in pool():
        with _about(what):
            for k in _sizes(tokens):
                laws.batch_free(strategy, tokens, k, _scores(strategy, tokens))


def deterministic(strategy: Strategy) -> None:
    """Asking again gives the same answer, and so does asking an equal strategy."""
    equal = type(strategy)(**strategy.model_dump())
    for tokens in (sample([40, 25], seed=1), sample([40], "integers", seed=2)):
        for k in (5, 20):
            laws.deterministic(strategy, tokens, k)
            again = _chosen(equal, tokens, k)
            _hold(torch.equal(again, _chosen(strategy, tokens, k)), "an equal strategy gives another answer")


def dtype_free(strategy: Strategy) -> None:
    """Evidence in half precision is read as the numbers it says; scores may tie that were different."""
    for what, tokens in pool():
        for narrowed in (Tensor.bfloat16, Tensor.half):
            with _about(f"{what} as {narrowed.__name__}"):
                narrow = changed(tokens, narrowed)
                wide = changed(narrow, Tensor.float)
                if isinstance(strategy, Scorer):
                    one, other = (strategy.score(t.only(strategy.needs)) for t in (narrow, wide))
                    rises = one.unsqueeze(1) < one.unsqueeze(2)
                    falls = other.unsqueeze(1) > other.unsqueeze(2)
                    pair = tokens.valid.unsqueeze(1) & tokens.valid.unsqueeze(2)
                    _hold(not (pair & rises & falls).any(), "tokens change places in half precision")
                else:
                    for k in _sizes(tokens):
                        before, after = _chosen(strategy, wide, k), _chosen(strategy, narrow, k)
                        laws.same_choice(tokens, before, after, "half precision")


def ties_by_id(strategy: Strategy) -> None:
    """Equal scores rank by token id; a strategy without scores so ranks tokens that nothing tells apart."""
    if not isinstance(strategy, Scorer):
        for n in (2, 5, 9):
            for k in range(n + 1):
                found = _chosen(strategy, alike(n), k)[0].nonzero().flatten().tolist()
                _hold(found == list(range(k)), f"of {n} tokens alike, {k} are those at the places {found}")
        return
    for what, tokens in pool():
        with _about(what):
            scores = strategy.score(tokens.only(strategy.needs)).tolist()
            for k in _sizes(tokens):
                mask = _chosen(strategy, tokens, k)
                for own, n, row in zip(scores, tokens.universe.counts.tolist(), mask, strict=True):
                    ranked = sorted((-score, place) for place, score in enumerate(own[:n]))
                    wanted = sorted(place for _, place in ranked[:k])
                    found = row.nonzero().flatten().tolist()
                    _hold(found == wanted, f"{k} tokens are those at the places {found}; by score and id {wanted}")


# ------------------------------------------------------------------------------------ what is seen


def pure(strategy: Strategy) -> None:
    """Judging changes neither the evidence, nor the strategy, nor the state of torch's generator."""
    tokens = sample([9, 5], seed=4)
    # Whatever it would remember, the other laws have not shown it yet.
    strategy = type(strategy)(**strategy.model_dump())
    untouched, settings, inside = changed(tokens, Tensor.clone), strategy.model_dump(), dict(vars(strategy))
    state = torch.get_rng_state()

    def spied(leaf: Expression, reading: Reading, depth: int) -> Chain:
        # What it sees is a copy already, which it shares with other strategies.
        before = changed(reading.tokens, Tensor.clone)
        chain = leaf.read(reading, depth)
        _unchanged(reading.tokens, before)
        return chain

    for k in (2, 6):
        select(strategy, tokens, torch.full_like(tokens.universe.counts, k), source=spied)
    if isinstance(strategy, Merger):
        _assigned(strategy, tokens, 3)
    _unchanged(tokens, untouched)
    _hold(strategy.model_dump() == settings and vars(strategy) == inside, "judging changed the strategy itself")
    _hold(torch.equal(torch.get_rng_state(), state), "judging drew from torch's own generator; use universe.draw")


def declared_evidence_suffices(strategy: Strategy) -> None:
    """What `needs` declares is all that is looked at."""
    for what, tokens in pool():
        with _about(what):
            for k in _sizes(tokens):
                try:
                    alone = _chosen(strategy, tokens.only(strategy.needs), k)
                except MissingEvidenceError as error:
                    raise AssertionError(f"more is looked at than `needs` declares: {error}") from error
                laws.same_choice(tokens, _chosen(strategy, tokens, k), alone, "hiding what `needs` does not declare")


def no_nan(strategy: Strategy) -> None:
    """NaN as the evidence of a token raises, or is not looked at; it never just changes the choice."""
    tokens = sample([4, 2], seed=6)
    clean = {k: _chosen(strategy, tokens, k) for k in (1, 3)}
    for what, spoilt in _spoilt(tokens, strategy.needs):
        for k, mask in clean.items():
            found = _chosen_or_raised(strategy, spoilt, k)
            _hold(found is None or torch.equal(found, mask), f"NaN in {what} raises nothing, but changes the choice")


def round_trip(strategy: Strategy) -> None:
    """Dumped and read again, a strategy is equal; so is a recipe of it, as YAML."""
    cls = type(strategy)
    for what, again in (
        ("its fields", cls(**strategy.model_dump())),
        ("JSON", cls.model_validate_json(strategy.model_dump_json())),
    ):
        _hold(again == strategy and hash(again) == hash(strategy), f"from {what} comes {again!r}, not {strategy!r}")
    registry = Registry()
    registry.add_strategy(cls)
    recipe = Recipe.of(strategy, 3)
    read = Recipe.loads(recipe.dump(), registry)
    _hold(read == recipe, f"the recipe\n{recipe.dump()}reads as\n{read.dump()}")


# ------------------------------------------------------------------------------------ mergers


def slots_are_the_cut(strategy: Merger) -> None:
    """The slots of `assign` are the tokens that the cut keeps, in id order; padding has no slot."""
    for what, tokens in pool():
        with _about(what):
            for k in _all_sizes(tokens):
                reduction, kept = _assigned(strategy, tokens, k), _chosen(strategy, tokens, k)
                slots = reduction.valid.sum(dim=1)
                _hold(torch.equal(slots, kept.sum(dim=1)), f"{slots.tolist()} slots for {kept.sum(dim=1).tolist()}")
                turn = kept.cumsum(dim=1) - 1
                _hold(torch.equal(reduction.slot[kept], turn[kept]), "a kept token is not in the slot of its place")
                _hold(bool((reduction.slot[~tokens.valid] == -1).all()), "padding is in a slot")
                most = torch.minimum(_budget(tokens, k), tokens.universe.counts)
                folded = strategy.fold(tokens.only(strategy.needs), most)
                if folded is not None:
                    _hold(torch.equal(folded[0], kept), "`fold` keeps other tokens than the cut")
                    ours, theirs = (torch.stack([one.slot.double(), one.weight]) for one in (folded[1], reduction))
                    _hold(torch.equal(ours, theirs), "`fold` joins other tokens than `assign`")


def weights_sum_to_one(strategy: Merger) -> None:
    """A slot is a mean of its tokens: their weights are not negative, and sum to one."""
    for what, tokens in pool():
        with _about(what):
            for k in _all_sizes(tokens):
                reduction = _assigned(strategy, tokens, k)
                total = reduction.mass(reduction.weight.double())[reduction.valid]
                _hold(bool((reduction.weight >= 0).all()), "a weight is negative")
                near = torch.allclose(total, torch.ones_like(total), rtol=0, atol=1e-6)
                _hold(near, f"the weights in the slots sum to {total.tolist()}")


def mass_conserved(strategy: Merger) -> None:
    """The slots together stand for as many original tokens as there were."""
    for what, tokens in pool():
        with _about(what):
            for k in _all_sizes(tokens)[1:]:
                mass = _assigned(strategy, tokens, k).mass(tokens.sizes.double()).sum(dim=1)
                there = torch.where(tokens.valid, tokens.sizes, 0).double().sum(dim=1)
                _hold(torch.equal(mass, there), f"the slots stand for {mass.tolist()} tokens of {there.tolist()}")


LAWS: tuple[Law, ...] = (
    exact_count,
    tiny,
    hard_inputs,
    no_repeats,
    nested_in_keep,
    depth_free,
    order_free,
    padding_free,
    batch_free,
    deterministic,
    dtype_free,
    ties_by_id,
    pure,
    declared_evidence_suffices,
    no_nan,
    round_trip,
)
"""What every strategy keeps."""
CHOOSER_LAWS: tuple[Law, ...] = (own_size,)
MERGER_LAWS: tuple[Law, ...] = (slots_are_the_cut, weights_sum_to_one, mass_conserved)


def laws_of(cls: type[Strategy]) -> tuple[Law, ...]:
    """Return the laws of a kind of strategies."""
    chooser = CHOOSER_LAWS if issubclass(cls, Chooser) else ()
    return LAWS + chooser + (MERGER_LAWS if issubclass(cls, Merger) else ())


# ------------------------------------------------------------------------------------ how they are tried


class _Last(Scorer):
    """Prefers the last tokens."""

    name = "kit_last"

    @property
    def needs(self) -> frozenset[Evidence]:
        """Nothing."""
        return frozenset()

    def score(self, tokens: Tokens) -> Tensor:
        """Return the id."""
        return tokens.ids


def _hold(condition: object, message: str) -> None:
    if not condition:
        raise AssertionError(message)


@contextmanager
def _about(what: str) -> Iterator[None]:
    """Add to any error what it was raised for."""
    try:
        yield
    except Exception as error:
        error.add_note(f"for {what}")
        raise


def _examples(cls: type[Strategy]) -> tuple[Strategy, ...]:
    return tuple(cls(**settings) for settings in cls.examples)


def _sizes(tokens: Tokens) -> list[int]:
    """Return budgets that leave something to choose."""
    n = tokens.universe.n
    return sorted({1, n // 2, n - 1})


def _all_sizes(tokens: Tokens) -> range:
    return range(tokens.universe.n + 2)


def _budget(tokens: Tokens, k: int) -> Tensor:
    return torch.full_like(tokens.universe.counts, k)


def _chosen(strategy: Strategy, tokens: Tokens, k: int) -> Tensor:
    return select(strategy, tokens, _budget(tokens, k)).mask


def _chosen_or_raised(strategy: Strategy, tokens: Tokens, k: int) -> Tensor | None:
    try:
        return _chosen(strategy, tokens, k)
    # Whatever it raises, it has not been silent.
    except Exception:
        return None


def _assigned(strategy: Merger, tokens: Tokens, k: int) -> Reduction:
    """Merge as a stage does: with the declared evidence, and no more slots than tokens."""
    seen, before = tokens.only(strategy.needs), changed(tokens, Tensor.clone)
    reduction = strategy.assign(seen, torch.minimum(_budget(tokens, k), tokens.universe.counts))
    _unchanged(tokens, before)
    return reduction


def _scores(strategy: Strategy, tokens: Tokens) -> Tensor | None:
    """Return the scores of a scorer: a swap of tokens that score the same up to rounding is forgiven."""
    return strategy.score(tokens.only(strategy.needs)) if isinstance(strategy, Scorer) else None


def _unchanged(tokens: Tokens, before: Tokens) -> None:
    for kind, value in tokens.evidence.items():
        old = dict(parts(before.evidence[kind]))
        for name, part in parts(value):
            same = torch.equal(part.nan_to_num(), old[name].nan_to_num())
            _hold(same, f"judging changed {kind} {name}".rstrip())


def _spoilt(tokens: Tokens, kinds: Iterable[Evidence]) -> Iterator[tuple[str, Tokens]]:
    """Put NaN into the evidence of each token, and into each text, in turn: all of a vector, and one number of it."""
    for kind in sorted(kinds):
        value = tokens.evidence[kind]
        for name, part in parts(value):
            there = tokens.valid if isinstance(value, Tensor) or name in ("patch", "attention") else value.mask
            for row, place in there.nonzero().tolist():
                for where in [(row, place)] + ([(row, place, 0)] if part.ndim > 2 else []):
                    bad = part.clone()
                    bad[where] = torch.nan
                    evidence = {**tokens.evidence, kind: with_parts(value, {name: bad})}
                    yield f"{kind} {name}".rstrip(), replace(tokens, evidence=evidence)
