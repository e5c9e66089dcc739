"""Orders go on where they stopped, and an intersection reads as deep as it has to."""

import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from tokensieve import Chain, Keep, Ranker, Scorer, Tokens, Universe, select
from tokensieve.composers.meeting import further
from tokensieve.errors import ScoreError
from tokensieve.strategy import Order


class Steps(Order):
    """Picks by falling feature, and says how deep it was asked for."""

    def __init__(self, strategy, tokens):
        self.strategy, self.tokens = strategy, tokens

    def to(self, depth):
        ASKED.append(depth)
        if self.strategy.writes:
            self.tokens.features.zero_()
        order = self.tokens.features[..., self.strategy.column].argsort(dim=1, descending=True, stable=True)
        depth = depth - 1 if self.strategy.short else depth
        return Chain.from_picks(self.tokens.universe, order[:, :depth], self.strategy)


class Stepping(Ranker):
    name = "stepping"
    column: int = 0
    writes: bool = False
    short: bool = False

    def rank(self, tokens, depth):
        return self.begin(tokens).to(depth)

    def begin(self, tokens):
        BEGUN.append(self)
        return Steps(self, tokens)


class AllAtOnce(Scorer):
    name = "all_at_once"
    column: int = 1

    def score(self, tokens):
        return tokens.features[..., self.column]


ASKED, BEGUN = [], []


@pytest.fixture(autouse=True)
def asked():
    ASKED.clear()
    BEGUN.clear()


def drawn(n, seed=0, rows=1):
    return Tokens.of(torch.rand(rows, n, 3, generator=torch.Generator().manual_seed(seed)))


def met(tokens, columns, k, row=0):
    """How deep all orders have to be read until k tokens are in each."""
    places = [tokens.features[row, :, c].argsort(descending=True).argsort() for c in columns]
    return int(torch.stack(places).amax(dim=0).sort().values[k - 1]) + 1


@pytest.mark.parametrize("inference", [False, True])
def test_an_order_is_begun_once_and_goes_on(inference):
    with torch.inference_mode(inference):
        tokens = drawn(400)
        expected = select(AllAtOnce(column=0) & AllAtOnce(), tokens, Keep.of(40)).mask
        assert torch.equal(select(Stepping() & AllAtOnce(), tokens, Keep.of(40)).mask, expected)
    assert len(BEGUN) == 1
    assert sorted(ASKED) == ASKED
    assert 2 <= len(ASKED) <= 4


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("n", "k"), [(576, 64), (2880, 320), (300, 10)])
def test_an_intersection_reads_little_in_vain(seed, n, k):
    tokens = drawn(n, seed)
    needed = met(tokens, (0, 1), k)
    select(Stepping() & AllAtOnce(), tokens, Keep.of(k))
    assert needed <= ASKED[-1] <= 1.15 * needed + 5
    assert len(ASKED) <= 5


def test_two_orders_that_are_read_step_by_step_and_rows_that_differ():
    tokens = drawn(500, 3, rows=3)
    needed = max(met(tokens, (0, 1), 50, row) for row in range(3))
    mask = select(Stepping() & Stepping(column=1), tokens, Keep.of(50)).mask
    assert torch.equal(mask, select(AllAtOnce(column=0) & AllAtOnce(), tokens, Keep.of(50)).mask)
    assert needed <= max(ASKED) <= 1.25 * needed


def test_agreement_is_seen_at_once():
    tokens = drawn(300)
    tokens.features[..., 1] = tokens.features[..., 0]
    select(Stepping() & AllAtOnce(), tokens, Keep.of(30))
    assert ASKED == [30]


@given(
    n=st.integers(1, 40),
    k=st.integers(1, 40),
    rows=st.integers(1, 3),
    seed=st.integers(0, 99),
    known=st.sets(st.integers(0, 2), max_size=2),
)
@settings(deadline=None, max_examples=examples(150))
def test_the_next_depth_is_deeper_unless_the_cut_is_settled(n, k, rows, seed, known):
    g = torch.Generator().manual_seed(seed)
    universe = Universe.of_counts([n - row if n > row else 0 for row in range(rows)])
    depth = min(k, n)
    chains = []
    for number in range(3):
        whole = Chain.from_scores(universe, torch.rand(rows, n, generator=g), number)
        picks = whole.queue()[:, :depth]
        chains.append(whole if number in known else Chain.from_picks(universe, picks, number))
    level = torch.stack([chain.level for chain in chains]).amax(dim=0)
    enough = ((level < depth) & universe.valid).sum(dim=1) >= universe.counts.clamp(max=k)
    settled = enough | (universe.counts <= depth)
    step = further(chains, k, depth)
    if all(chain.complete for chain in chains):
        assert step == 0
    else:
        assert (step == 0) == bool(settled.all())
        assert step == 0 or depth < step <= n


def test_picks_on_the_host_are_those_on_the_device():
    universe = Universe.of_counts([4, 2])
    picks = torch.tensor([[2, 0, 3], [1, 0, -1]])
    plain = Chain.from_picks(universe, picks, "x")
    told = Chain.from_picks(universe, picks, "x", picked=[[2, 0, 3], [1, 0]])
    for row, n in enumerate((4, 2)):
        assert plain.level_on_host[row, :n].tolist() == told.level_on_host[row, :n].tolist()


def test_what_an_order_may_not_do():
    with pytest.raises(ScoreError, match=r"'stepping' wrote into tokens\.features"):
        select(Stepping(writes=True), drawn(9), Keep.of(3))
    with pytest.raises(ScoreError, match="stepping was asked for 3 places and gave 2"):
        select(Stepping(short=True), drawn(9), Keep.of(3))
