"""The golden vectors of the deep intersection and union: eight tokens, two orders."""

import pytest
import torch

from tokensieve import Chain, Keep, Ranker, Tokens, select

ORDERS = {"a": (6, 2, 5, 3, 1, 4, 7, 0), "r": (5, 0, 2, 6, 3, 7, 1, 4)}


class Given(Ranker):
    """A stated order of eight tokens."""

    name = "given"
    which: str

    def rank(self, tokens, depth):
        picks = torch.tensor([ORDERS[self.which][:depth]])
        return Chain.from_picks(tokens.universe, picks, self)


A, R = Given(which="a"), Given(which="r")
TOKENS = Tokens.of(torch.zeros(1, 8, 1))


def kept(expression, k, by=None):
    return set(select(expression, TOKENS, Keep.of(k), by).mask[0].nonzero().flatten().tolist())


@pytest.mark.parametrize(
    ("k", "a", "r", "both", "deep_and", "deep_or", "filled"),
    [
        (2, {2, 6}, {0, 5}, set(), {2, 5}, {5, 6}, {0, 5}),
        (3, {2, 5, 6}, {0, 2, 5}, {2, 5}, {2, 5, 6}, {0, 5, 6}, {0, 2, 5}),
        (4, {2, 3, 5, 6}, {0, 2, 5, 6}, {2, 5, 6}, {2, 3, 5, 6}, {0, 2, 5, 6}, {0, 2, 5, 6}),
    ],
)
def test_deep_intersection_and_union(k, a, r, both, deep_and, deep_or, filled):
    assert kept(A, k) == a
    assert kept(R, k) == r
    assert kept(A & R, k, by=A) == deep_and
    assert kept(A | R, k, by=R) == deep_or
    # The collapse: what published code does keeps what R keeps alone.
    assert kept(A[k] & R[k], k, by=R) == filled == r
    if both:
        assert kept(A[k] & R[k], len(both)) == both
    # Without `by` the sets are the same or differ in a tie only, and the order does not matter.
    assert kept(A & R, k) == kept(R & A, k)
    assert len(kept(A & R, k) ^ deep_and) in (0, 2)


def test_the_sets_of_a_chain_by_hand():
    # Levels of `a & r` are the larger places: 5: 2, 2: 2, 6: 3, 3: 4, 1: 6, 7: 6, 0: 7, 4: 7.
    assert [len(kept(A & R, k) & {2, 5}) for k in (1, 2)] == [1, 2]
    assert kept(A & R, 3) == {2, 5, 6}
    assert kept(A & R, 4) == {2, 3, 5, 6}
    # 5 and 2 tie at level 2: places 2 + 0 against 1 + 2.
    assert kept(A & R, 1) == {5}
    # 1 and 7 tie at level 6: places 4 + 6 against 6 + 5.
    assert kept(A & R, 5) == {1, 2, 3, 5, 6}
    # 0 and 4 tie at level 7: places 7 + 1 against 5 + 7.
    assert kept(A & R, 7) == set(range(8)) - {4}
    # Levels of `a | r` are the smaller places; 6 and 5 tie at 0 with 0 + min(3, 1) against min(2, 1) + 0,
    # so the id decides.
    assert kept(A | R, 1) == {5}
    # 2 and 0 tie at level 1: 1 + min(2, 2) against min(7, 2) + 1, and the id decides.
    assert kept(A | R, 3) == {0, 5, 6}
