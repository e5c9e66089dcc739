"""What a selection asks of a device: operators and waits, counted and not timed, for 64 of 576 tokens."""

import pytest
import torch

from tokensieve import Evidence, Keep, Tokens, Universe, select
from tokensieve.measure import count_operators
from tokensieve.testing.samples import sample
from tokensieve_strategies import CDPP, GSP, QCSP, DivPrune, FastV, Norm, Random, ToMe, Uniform

N, KEEP, D = 576, 64, 256
# A prefill adds about 45 operators and one wait to these; see tests/engine for both together.
BUDGETS = {
    Random(): (75, 1),
    Uniform(): (50, 2),
    Norm(): (50, 1),
    FastV(): (40, 1),
    GSP(): (110, 1),
    GSP(tau=0.1): (110, 1),
    DivPrune(): (520, 2),
    QCSP(): (860, 2),
    CDPP(): (860, 2),
    CDPP(theta=0.5): (870, 2),
    GSP() & QCSP(): (2500, 5),
}


def tokens(rows=1):
    """Tokens as the engine gives them: their layout is known to the host."""
    of = sample([N] * rows, d=D, width=24)
    of.universe.knowing([N] * rows, canonical=True)
    return of


def counted(strategy, of):
    with torch.inference_mode(), count_operators() as counts:
        select(strategy, of, Keep.of(KEEP))
    return counts


@pytest.mark.parametrize("strategy", BUDGETS, ids=repr)
def test_operators_and_waits_of_a_selection(strategy):
    counts = counted(strategy, tokens())
    most, waits = BUDGETS[strategy]
    assert counts.operators <= most, counts.by_name.most_common(12)
    assert counts.synchronisations <= waits, counts.waits


@pytest.mark.parametrize(("strategy", "step"), [(DivPrune(), 6), (QCSP(), 10), (CDPP(), 10)], ids=repr)
def test_a_step_of_a_greedy_method(strategy, step):
    seen = []
    for keep in (32, 64):
        with torch.inference_mode(), count_operators() as counts:
            select(strategy, tokens(), Keep.of(keep))
        seen.append(counts)
    assert seen[1].operators - seen[0].operators <= 32 * step + 4
    assert seen[1].synchronisations == seen[0].synchronisations


@pytest.mark.parametrize("strategy", [DivPrune(), QCSP()], ids=repr)
def test_a_batch_is_picked_together(strategy):
    """Eight rows take a step more than one row, and not eight steps."""
    alone = counted(strategy, tokens()).operators
    together = counted(strategy, tokens(8)).operators
    assert together <= 2.5 * alone


def test_uniform_runs_no_picking_on_the_device():
    of = tokens()
    once = counted(Uniform(), of)
    again = counted(Uniform(), Tokens(Universe.full(1, N), {Evidence.GRID: of.grid.clone()}))
    assert again.operators == once.operators


def test_the_counter_sees_a_strategy_that_asks_the_host():
    class Asking(Random):
        name = "asking"

        def score(self, tokens):
            scores = super().score(tokens)
            for place in range(tokens.universe.n):
                scores[0, place] += float(scores[0, place])
            return scores

    assert counted(Asking(), tokens()).synchronisations >= N


def test_merging_asks_for_little():
    of = tokens().only(ToMe().needs)
    with torch.inference_mode(), count_operators() as counts:
        ToMe().fold(of, torch.tensor([KEEP]))
    assert counts.operators <= 240, counts.by_name.most_common(12)
    assert counts.synchronisations <= 3, counts.waits
