"""Conformance kits for plugins, and the laws that they test.

`StrategyConformance`, `ComposerConformance`, `AdapterConformance` and `TaskConformance` are classes of tests: inherit
from one, name what is under test, and run it with pytest. `laws` are functions to call on examples of your own.
`samples` are tokens drawn from fixed seeds. `tokensieve.testing.generators` draws random inputs; it needs hypothesis,
so it is imported by that name only.
"""

from typing import TYPE_CHECKING, Any

from tokensieve.testing import laws, samples
from tokensieve.testing.composers.conformance import ComposerConformance, parametrize_composer_checks
from tokensieve.testing.strategies.conformance import StrategyConformance, parametrize_strategy_checks
from tokensieve.testing.tasks import TaskConformance

if TYPE_CHECKING:
    from tokensieve.testing.adapters.conformance import AdapterConformance

__all__ = [
    "AdapterConformance",
    "ComposerConformance",
    "StrategyConformance",
    "TaskConformance",
    "laws",
    "parametrize_composer_checks",
    "parametrize_strategy_checks",
    "samples",
]


def __getattr__(name: str) -> Any:
    # The kit for adapters needs pytest; the rest of this package does not.
    if name == "AdapterConformance":
        from tokensieve.testing.adapters.conformance import AdapterConformance

        return AdapterConformance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
