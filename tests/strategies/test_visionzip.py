import math
from fractions import Fraction

import hard
import loops
import numpy as np
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, row, sample

from tokensieve import Evidence, Keep, select
from tokensieve.errors import FormulaError, ScoreError, SettingError
from tokensieve_strategies import GSP, VisionZip


def visionzip(attention, keys, k, share):
    """Dominant tokens, contextual targets, and whom each target stands for."""
    a = [float(np.float32(sum(heads) / len(heads))) for heads in attention]
    n = len(a)
    k = min(k, n)
    d = math.ceil(Fraction(share) * k)
    dominant = sorted(range(n), key=lambda i: (-a[i], i))[:d]
    rest = [i for i in range(n) if i not in dominant]
    c = k - d
    targets = [rest[i * (len(rest) // c)] for i in range(c)]
    homes = targets or sorted(dominant)
    groups = {i: [i] for i in (*dominant, *targets)}
    for i in rest:
        if i not in targets and homes:
            groups[homes[loops.first_best([loops.cosine(keys[i], keys[j]) for j in homes], range(len(homes)))]].append(
                i
            )
    return dominant, targets, groups


@given(
    counts=st.lists(st.integers(0, 16), min_size=1, max_size=3),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    share=st.sampled_from([27 / 32, 0.5, 0.25, 1.0]),
)
@settings(deadline=None, max_examples=examples(100))
def test_it_is_the_method(counts, kind, seed, share):
    tokens = sample(counts, kind, seed)
    strategy = VisionZip(share=share)
    for k in (1, 4, 7, 16):
        sizes = tokens.universe.counts.clamp(max=k)
        found = select(strategy, tokens, Keep.of(k)).mask
        reduction = strategy.assign(tokens, sizes)
        merged = reduction.apply(tokens.features.double())
        for number, n in enumerate(counts):
            one = row(tokens, number)
            keys = one.vision_keys[0].tolist()
            dominant, targets, groups = visionzip(one.vision_attention[0].tolist(), keys, k, share)
            kept = sorted([*dominant, *targets])
            assert found[number].nonzero().flatten().tolist() == kept
            slots = reduction.slot[number, :n].tolist()
            for slot, place in enumerate(kept):
                members = sorted(i for i in range(n) if slots[i] == slot)
                assert members == sorted(groups[place])
                weight = one.sizes[0, members].double().unsqueeze(1)
                mean = (one.features[0, members].double() * weight).sum(dim=0) / weight.sum()
                torch.testing.assert_close(merged[number, slot], mean)


def test_the_published_splits():
    # 54 + 10, 108 + 20 and 162 + 30; CLS, which the paper counts among the first, is no token here.
    tokens = sample([576])
    for k, dominant in ((64, 54), (128, 108), (192, 162)):
        chain = VisionZip().rank(tokens, k)
        means = tokens.vision_attention[0].double().mean(dim=1).float()
        first = means.argsort(descending=True, stable=True)[:dominant].tolist()
        picks = [*range(576)]
        picks.sort(key=lambda i: int(chain.level[0, i]))
        assert picks[:dominant] == first
        step = (576 - dominant) // (k - dominant)
        rest = [i for i in range(576) if i not in first]
        assert picks[dominant:k] == rest[::step][: k - dominant]


def test_a_contextual_token_is_a_mean():
    # The code adds the target and the mean of what joined it: a vector twice as long.
    tokens = sample([6], seed=3)
    tokens.features[:] = torch.tensor([3.0, 4.0, 0, 0, 0, 0])
    tokens.evidence[Evidence.SIZES][:] = 1.0
    reduction = VisionZip(share=0.5).assign(tokens, torch.tensor([2]))
    assert reduction.valid.sum() == 2
    torch.testing.assert_close(reduction.apply(tokens.features)[0].norm(dim=-1), torch.tensor([5.0, 5.0]))
    # Nobody is lost, and nobody joins a dominant token.
    assert sorted(reduction.mass(tokens.sizes)[0].tolist()) == [1, 5]


def test_without_contextual_tokens_the_rest_joins_the_dominant():
    tokens = sample([7])
    reduction = VisionZip(share=1.0).assign(tokens, torch.tensor([3]))
    assert reduction.mass(tokens.sizes).sum() == tokens.sizes.sum()
    assert (VisionZip(share=1.0).assign(tokens, torch.tensor([0])).slot == -1).all()


def test_a_drop_keeps_the_same_tokens_as_a_merge():
    tokens = sample([11, 6], seed=5)
    for k in range(1, 12):
        mask = select(VisionZip(), tokens, Keep.of(k)).mask
        reduction = VisionZip().assign(tokens, mask.sum(dim=1))
        own = mask.long().cumsum(dim=1) - 1
        assert torch.equal(reduction.slot[mask], own[mask])


def test_it_is_not_nested_and_says_so():
    tokens = sample([30], seed=2)
    sets = [
        set(select(VisionZip(share=0.5), tokens, Keep.of(k)).mask[0].nonzero().flatten().tolist()) for k in (6, 7, 8)
    ]
    assert not (sets[0] <= sets[1] <= sets[2])
    with pytest.raises(FormulaError, match=r"such as visionzip\[64\]"):
        VisionZip() | GSP()


def test_hard_batches_and_settings():
    for example in VisionZip.examples:
        hard.check(VisionZip(**example))
    assert VisionZip().needs == {Evidence.VISION_ATTENTION, Evidence.VISION_KEYS, Evidence.SIZES}
    for bad in (0.0, 1.5):
        with pytest.raises(SettingError):
            VisionZip(share=bad)
    tokens = sample([4])
    tokens.vision_keys[0, 1, 0] = torch.nan
    with pytest.raises(ScoreError, match="visionzip: the vision keys hold NaN"):
        VisionZip().assign(tokens, torch.tensor([2]))
