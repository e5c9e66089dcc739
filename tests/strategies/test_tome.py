import loops
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, row, sample

from tokensieve import Evidence, Keep, select
from tokensieve.errors import ScoreError, SettingError
from tokensieve_strategies import GSP, ToMe

COUNTS = st.lists(st.integers(0, 13), min_size=1, max_size=3)
TOME = st.sampled_from([ToMe(), ToMe(metric="keys")])


def compared(strategy, tokens):
    return tokens.features if strategy.metric == "features" else tokens.vision_keys


def cases(test):
    return settings(deadline=None, max_examples=examples(60))(
        given(counts=COUNTS, kind=st.sampled_from(KINDS), seed=st.integers(0, 999), strategy=TOME)(test)
    )


@cases
def test_it_is_the_method(counts, kind, seed, strategy):
    tokens = sample(counts, kind, seed)
    for number, n in enumerate(counts):
        one = row(tokens, number)
        x, sizes = compared(strategy, one)[0].tolist(), one.sizes[0].tolist()
        for k in range(1, n + 1):
            groups, _ = loops.tome(x, sizes, k)
            reduction = strategy.assign(one, torch.tensor([k]))
            found = [[] for _ in range(k)]
            for place, slot in enumerate(reduction.slot[0].tolist()):
                found[slot].append(place)
            assert found == [sorted(groups[place]) for place in sorted(groups)]
            merged = reduction.apply(one.features.double())[0]
            for slot, place in enumerate(sorted(groups)):
                members = groups[place]
                weight = one.sizes[0, members].double().unsqueeze(1)
                mean = (one.features[0, members].double() * weight).sum(dim=0) / weight.sum()
                torch.testing.assert_close(merged[slot], mean)
        if n:
            last, went = (list(part) for part in loops.tome(x, sizes, 1))
            order = [*last, *reversed(went)]
            assert strategy.rank(one, n).queue()[0].tolist() == order


@cases
def test_representatives_are_the_cut(counts, kind, seed, strategy):
    tokens = sample(counts, kind, seed)
    before = None
    for k in range(max(counts) + 2):
        keep = torch.full((len(counts),), k)
        kept = strategy.rank(tokens, k).cut(k)
        reduction = strategy.assign(tokens, keep)
        # Slots are the kept tokens in id order, each in its own slot.
        own = kept.long().cumsum(dim=1) - 1
        assert torch.equal(reduction.slot[kept], own[kept])
        assert torch.equal(reduction.valid.sum(dim=1), kept.sum(dim=1))
        # Nothing is lost, and nothing without a slot is kept.
        mass = torch.where(tokens.valid, tokens.sizes, 0).sum(dim=1)
        assert torch.equal(reduction.mass(tokens.sizes).sum(dim=1), mass if k else torch.zeros_like(mass))
        assert torch.equal(reduction.slot >= 0, tokens.valid & (torch.tensor(k) > 0))
        assert before is None or not (before & ~kept).any()
        before = kept


def test_keeping_all_is_the_identity():
    tokens = sample([5, 3])
    reduction = ToMe().assign(tokens, torch.tensor([5, 7]))
    assert torch.equal(reduction.apply(tokens.features)[tokens.valid], tokens.features[tokens.valid])
    assert torch.equal(reduction.mass(tokens.sizes)[tokens.valid], tokens.sizes[tokens.valid])


def test_rows_keep_their_own_numbers():
    tokens = sample([9, 9, 6])
    together = ToMe().assign(tokens, torch.tensor([2, 5, 5]))
    for number, k in enumerate([2, 5, 5]):
        alone = ToMe().assign(row(tokens, number), torch.tensor([k]))
        n = alone.slot.shape[1]
        assert torch.equal(together.slot[number, :n], alone.slot[0])
        assert torch.equal(together.weight[number, :n], alone.weight[0])


def test_sizes_weigh():
    tokens = sample([2])
    tokens.evidence[Evidence.SIZES][0] = torch.tensor([3.0, 1.0])
    merged = ToMe().assign(tokens, torch.tensor([1])).apply(tokens.features.double())[0, 0]
    a, b = tokens.features[0].double()
    torch.testing.assert_close(merged, (3 * a + b) / 4)


def test_the_most_similar_go_first():
    x = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.1, 1.0], [1.0, 0.5]]])
    tokens = sample([4], d=2)
    tokens.evidence[Evidence.FEATURES][:] = x
    # Place 2 is closer to 1 than place 0 is to 3.
    assert select(ToMe(), tokens, Keep.of(3)).mask.tolist() == [[True, True, False, True]]
    assert select(ToMe(), tokens, Keep.of(2)).mask.tolist() == [[False, True, False, True]]


def test_it_is_an_order_too():
    tokens = sample([10, 7])
    assert select(GSP() & ToMe(), tokens, Keep.of(4)).mask.sum(dim=1).tolist() == [4, 4]


def test_it_needs_what_it_compares():
    assert ToMe().needs == {Evidence.FEATURES, Evidence.SIZES}
    assert ToMe(metric="keys").needs == {Evidence.VISION_KEYS, Evidence.SIZES}
    with pytest.raises(SettingError):
        ToMe(metric="values")


def test_a_bad_vector_is_refused():
    tokens = sample([4])
    tokens.features[0, 2, 1] = torch.nan
    with pytest.raises(ScoreError, match="tome: the features hold NaN"):
        select(ToMe(), tokens, Keep.of(2))
