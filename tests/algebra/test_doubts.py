"""Checks on the device are asked for at once, or all together at the end of a block."""

import pytest
import torch

from tokensieve import Chain, Keep, Scorer, Tokens, Universe, select
from tokensieve.algebra.doubts import refuse_if, settled_together
from tokensieve.errors import ScoreError
from tokensieve.measure import count_operators

NO, YES = torch.tensor(False), torch.tensor(True)


def test_a_check_alone_is_asked_at_once():
    refuse_if(NO, lambda: ValueError("no"))
    with pytest.raises(ValueError, match="yes"):
        refuse_if(YES, lambda: ValueError("yes"))


def test_in_a_block_the_first_that_failed_is_raised_at_the_end():
    reached = []

    def block():
        with settled_together():
            refuse_if(NO, lambda: ValueError("passes"))
            refuse_if(YES, lambda: ValueError("first"))
            with settled_together():
                refuse_if(YES, lambda: ValueError("second"))
            reached.append(True)

    with pytest.raises(ValueError, match="first"):
        block()
    assert reached == [True]


def test_all_checks_of_a_block_are_one_wait():
    with count_operators() as counts, settled_together():
        for _ in range(9):
            refuse_if(NO, lambda: ValueError)
    assert counts.synchronisations == 1
    with count_operators() as counts, settled_together():
        pass
    assert counts.synchronisations == 0


def failing(wrong, error):
    with settled_together():
        refuse_if(wrong, lambda: ValueError("the cause"))
        raise error


def test_what_fails_because_of_a_doubted_value_is_told_by_the_check():
    with pytest.raises(ValueError, match="the cause") as caught:
        failing(YES, RuntimeError("index out of range"))
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(RuntimeError, match="alone"):
        failing(NO, RuntimeError("alone"))


def test_a_block_that_was_left_leaves_nothing_behind():
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error):
            failing(NO, error())
        with pytest.raises(TypeError):
            refuse_if(YES, TypeError)


class Bad(Scorer):
    """Scores with a NaN."""

    name = "bad"

    def score(self, tokens):
        return tokens.features[..., 0] * torch.nan


def test_a_selection_waits_once_and_a_chain_alone_is_refused_at_once():
    universe = Universe.full(1, 4)
    with pytest.raises(ScoreError, match="NaN"):
        Chain.from_scores(universe, torch.full((1, 4), torch.nan), "x")
    with pytest.raises(ScoreError, match="places 0 to 9"):
        Chain.from_picks(universe, torch.tensor([[0, 9]]), "x")
    with pytest.raises(ScoreError, match=r"Bad.*NaN"):
        select(Bad(), Tokens.of(torch.ones(1, 4, 2)), Keep.of(2))


def test_what_the_host_knows_of_a_universe_is_not_asked():
    with count_operators() as counts:
        for universe in (Universe.full(2, 3), Universe.of_counts([3, 0])):
            assert universe.canonical
            assert universe.sizes in ((3, 3), (3, 0))
            assert universe.same_tokens(universe.copied())
            assert universe.copied().sizes == universe.sizes
    assert counts.synchronisations == 0
    turned = Universe(torch.tensor([[False, True, True]]), torch.tensor([[0, 5, 2]]))
    assert not turned.canonical
    assert turned.sizes == (2,)
    assert turned.order().tolist() == [[2, 1, 0]]
    assert not turned.same_tokens(Universe(turned.valid, turned.ids + 1))


def test_sizes_on_the_host_are_sizes_on_the_device():
    class Last(Scorer):
        name = "last"

        def score(self, tokens):
            return tokens.ids

    tokens = Tokens.of(torch.ones(3, 5, 2), Universe.of_counts([5, 2, 0]))
    for keep in ([3, 3, 3], [1, 2, 0], [9, 9, 9]):
        mask = select(Last(), tokens, keep).mask
        assert torch.equal(mask, select(Last(), tokens, torch.tensor(keep)).mask)
        assert mask.sum(dim=1).tolist() == [min(k, n) for k, n in zip(keep, (5, 2, 0), strict=True)]
