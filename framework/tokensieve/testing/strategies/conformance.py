"""`StrategyConformance`: every law on strategies, as one class of tests.

Inherit from it, name the strategy, and run it with pytest:

    class TestMine(StrategyConformance):
        strategy = Mine

or take the pairs of instances and checks, and run them with anything:

    for instance, check in parametrize_strategy_checks(Mine):
        check(instance)

Every law is a function, and is tried on every instance that the strategy declares in `examples`. A strategy that breaks
a law by design declares it in `known_failures`, with the reason; a declared failure that does not happen is a failure.
The samples are drawn from fixed seeds, so a result does not change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from tokensieve.strategy import Appraiser, Chooser, Merger, Strategy
from tokensieve.testing.checks import LawCheck, require_declarations
from tokensieve.testing.strategies.counts import (
    depth_free,
    exact_count,
    hard_inputs,
    nested_in_keep,
    no_repeats,
    own_size,
    tiny,
)
from tokensieve.testing.strategies.demands import demands_are_free, demands_are_numbers
from tokensieve.testing.strategies.evidence import declared_evidence_suffices, no_nan, pure, round_trip
from tokensieve.testing.strategies.invariance import (
    batch_free,
    deterministic,
    dtype_free,
    order_free,
    padding_free,
    ties_by_id,
)
from tokensieve.testing.strategies.mergers import mass_conserved, slots_are_the_cut, weights_sum_to_one

if TYPE_CHECKING:
    import pytest

Law = Callable[[Any], None]


class Check(LawCheck[Strategy]):
    """A law that a strategy is tried on."""

    def owner(self, case: Strategy) -> type[Strategy]:
        """Return the strategy's class."""
        return type(case)

    def examples(self, case: Strategy) -> tuple[Strategy, ...]:
        """Return an instance for each of the class's examples."""
        return _examples(type(case))


def parametrize_strategy_checks(*strategies: type[Strategy] | Strategy) -> list[tuple[Strategy, Check]]:
    """Return pairs of every instance and every check that applies to it.

    Args:
        strategies: classes, which stand for their `examples`, or instances.

    Raises:
        ValueError: if a class has no examples, declares that it breaks what is none of its laws, or gives no reason.
    """
    pairs: list[tuple[Strategy, Check]] = []
    for given in strategies:
        cls = given if isinstance(given, type) else type(given)
        instances = _examples(cls) if isinstance(given, type) else (given,)
        checks = [Check(law) for law in laws_of(cls)]
        require_declarations(cls, [check.name for check in checks], instances, "; give instances of it")
        pairs += [(instance, check) for instance in instances for check in checks]
    return pairs


class StrategyConformance:
    """The laws that every strategy must keep, as tests.

    Attributes:
        strategy: the strategy under test.
    """

    strategy: ClassVar[type[Strategy]]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make a test for every instance and law."""
        if "check" in metafunc.fixturenames:
            metafunc.parametrize(("instance", "check"), parametrize_strategy_checks(self.strategy), ids=repr)

    def test_law(self, instance: Strategy, check: Check) -> None:
        """Try one instance on one law."""
        reason = check(instance)
        if reason is not None:
            import pytest

            pytest.xfail(reason)


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
"""The laws of every strategy."""
CHOOSER_LAWS: tuple[Law, ...] = (own_size,)
APPRAISER_LAWS: tuple[Law, ...] = (demands_are_numbers, demands_are_free)
MERGER_LAWS: tuple[Law, ...] = (slots_are_the_cut, weights_sum_to_one, mass_conserved)


def laws_of(cls: type[Strategy]) -> tuple[Law, ...]:
    """Return the laws that apply to a strategy."""
    own = CHOOSER_LAWS if issubclass(cls, Chooser) else ()
    own += APPRAISER_LAWS if issubclass(cls, Appraiser) else ()
    return LAWS + own + (MERGER_LAWS if issubclass(cls, Merger) else ())


def _examples(cls: type[Strategy]) -> tuple[Strategy, ...]:
    return tuple(cls(**settings) for settings in cls.examples)
