"""What plugin authors test with: the laws that everything must keep, and the kits that try them.

The kits for strategies and tasks need pytest to run as a class of tests, and nothing but torch otherwise. Random
inputs for other tests are in `tokensieve.testing.generators`, which needs hypothesis, and the kit for
adapters is in `tokensieve.testing.conformance`, which needs pytest; both are imported by these names.
"""

from tokensieve.testing import laws, samples
from tokensieve.testing.strategies import StrategyConformance, parametrize_strategy_checks
from tokensieve.testing.tasks import TaskConformance

__all__ = ["StrategyConformance", "TaskConformance", "laws", "parametrize_strategy_checks", "samples"]
