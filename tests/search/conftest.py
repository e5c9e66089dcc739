import pytest

import tokensieve as ts
from tokensieve.search.grammar import Grammar
from tokensieve.search.trial import Candidate, Measured, Trial
from tokensieve.sites import Site
from tokensieve.study.spec.budget import Budget

# A search needs it, and it is an extra.
pytest.importorskip("optuna")

REGISTRY = ts.default_registry()
BUDGETS = (Budget.of("1/9"), Budget.of(16))
SITES = tuple(Site("decoder", block) for block in (0, 1, 2, 4))


def shipped(budget=BUDGETS[1]):
    """Shipped recipes that can have a budget, by name."""
    found = {}
    for name in REGISTRY.recipes:
        try:
            found[f"{name} at {budget}"] = Candidate.of(ts.Recipe.load(name, REGISTRY), budget)
        except ts.TokensieveError:
            continue
    return found


@pytest.fixture(scope="session")
def grammar():
    return Grammar(REGISTRY, SITES, BUDGETS, [one.recipe for one in shipped().values()])


class Pretended:
    """Measures by arithmetic on the hash, and says how often it was asked for which recipe."""

    def __init__(self, refused=0, fails=0, stop_after=None):
        self.asked = []
        self._refused, self._fails, self._stop_after = refused, fails, stop_after

    def why_not(self, candidate):
        digit = int(candidate.hash[0], 16)
        return "it has a digit that is too small" if digit < self._refused else None

    def measure(self, candidates):
        if self._stop_after is not None and len(self.asked) >= self._stop_after:
            raise KeyboardInterrupt
        self.asked += [one.hash for one in candidates.values()]
        return {name: self._trial(name, one) for name, one in candidates.items()}

    def _trial(self, name, one):
        number = int(one.hash[:8], 16)
        if number % 16 < self._fails:
            return Trial(name, "failed", one, reason="out of memory")
        return Trial(name, "measured", one, Measured(number % 101 / 100, one.recipe.stages[-1].at.block / 10 + 0.1))
