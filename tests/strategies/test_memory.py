"""No method takes more memory than grows with the square of the tokens, unless its catalogue entry says so."""

import pytest
import torch
from samples import sample

from tokensieve import Merger, Ranker, select
from tokensieve.testing.memory import peak
from tokensieve_strategies import GSP, STRATEGIES

INSTANCES = [strategy(**settings) for strategy in STRATEGIES for settings in strategy.examples]
N = 256


def growth(compute, n=N):
    """By which power of the tokens the memory grows, from n tokens to twice as many."""
    small, large = (sample([size], d=16, width=16) for size in (n, 2 * n))
    compute(small)
    return torch.log2(torch.tensor(peak(lambda: compute(large)) / peak(lambda: compute(small)))).item()


def declared(strategy):
    return 3 if "n³" in strategy.complexity[1] else 2


@pytest.mark.parametrize("strategy", INSTANCES, ids=repr)
def test_memory_grows_no_faster_than_the_entry_says(strategy):
    def judged(tokens):
        keep = tokens.universe.counts // 2
        select(strategy, tokens, keep)
        if isinstance(strategy, Merger):
            strategy.assign(tokens, keep)

    assert growth(judged) < declared(strategy) + 0.2


class Cube(Ranker):
    """Looks at all triples at once."""

    name = "cube"

    def rank(self, tokens, depth):
        x = tokens.features[..., 0]
        triples = x[:, :, None, None] * x[:, None, :, None] * x[:, None, None, :]
        return GSP().judge(tokens, depth) if triples.sum().isfinite() else None


def test_a_cube_is_seen():
    assert growth(lambda tokens: Cube().rank(tokens, 1), n=48) > 2.5


def test_what_is_counted():
    """A result and a temporary of 8 MB each; what is there before and what is gone does not count."""
    before = torch.ones(1000, 1000, dtype=torch.float64)

    def compute():
        torch.zeros(3000, 1000, dtype=torch.float32).sum()
        return (before + 1) + before

    assert peak(compute) == pytest.approx(16e6, rel=0.01)
    assert peak(lambda: None) == 0
