"""`ComposerConformance`: every law on composers, as one class of tests.

Inherit from `ComposerConformance`, name the composer, and run it with pytest:

    class TestMine(ComposerConformance):
        composer = Mine

or take the pairs of cases and laws, and run them with anything:

    for case, law in parametrize_composer_checks(Mine):
        law(case)

Every law is a function, and is tried on every example of settings that the composer declares in `examples`, with
operands of every kind: orders with and without ties, greedy orders that are right only as deep as they are asked,
fixed sets, complements and compositions. A composer that breaks a law by design says so, with the reason, in
`known_failures`; a declared failure that does not happen is a failure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from tokensieve.composers.expression import Composer, Expression
from tokensieve.testing.checks import LawCheck, require_declarations
from tokensieve.testing.composers.cases import ComposerCase
from tokensieve.testing.composers.laws import (
    arity_is_kept,
    batch_free,
    depth_free,
    deterministic,
    exact_count,
    needs_are_those_of_operands,
    nested_in_keep,
    order_free,
    padding_free,
    pure,
    round_trip,
    set_by_set,
    settings_are_checked,
    sized_is_true,
)

if TYPE_CHECKING:
    import pytest

Law = Callable[[ComposerCase], None]

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
