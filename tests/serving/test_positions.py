"""Positions that travel with vectors: exact in every type, and added to one forward pass alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokensieve.serving.positions import CHANNELS, Offsets, with_offsets, without_offsets

FARTHEST = 128**3 - 1


@given(
    rows=st.lists(st.tuples(*[st.integers(0, FARTHEST)] * 3), max_size=6),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
)
def test_positions_come_back_as_they_were(rows, dtype):
    offsets = torch.tensor(rows, dtype=torch.int64).reshape(-1, 3).T
    vectors = torch.randn(len(rows), 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    carried = with_offsets(vectors, offsets)
    assert carried.dtype == dtype
    assert carried.shape == (len(rows), 5 + CHANNELS)
    found, again = without_offsets(carried)
    assert torch.equal(found, vectors)
    assert torch.equal(again, offsets)


@given(
    passes=st.lists(
        st.lists(st.one_of(st.none(), st.tuples(*[st.integers(0, 99)] * 3)), min_size=1, max_size=8), max_size=4
    ),
    padding=st.integers(0, 2),
)
def test_each_pass_gets_its_own(passes, padding):
    offsets = Offsets(10)
    memory = None
    for number, tokens in enumerate(passes):
        moved = [one for one in tokens if one is not None]
        if moved:
            places = torch.tensor([one is not None for one in tokens])
            offsets.put(torch.tensor(moved).T, places)
        given = torch.arange(3 * (len(tokens) + padding)).reshape(3, -1) + number
        taken = offsets.taken(given)
        for row in range(3):
            for place in range(len(tokens) + padding):
                one = tokens[place] if place < len(tokens) else None
                assert taken[row, place] == given[row, place] + (0 if one is None else one[row])
        # Captured graphs read it where it was.
        assert memory in (None, taken.data_ptr())
        memory = taken.data_ptr()


def test_what_no_pass_took_is_forgotten():
    offsets = Offsets(4)
    offsets.put(torch.full((3, 4), 7), torch.ones(4, dtype=torch.bool))
    offsets.put(torch.full((3, 1), 5), torch.tensor([False, True]))
    assert offsets.taken(torch.zeros(3, 4, dtype=torch.int64)).tolist() == [[0, 5, 0, 0]] * 3


def test_more_tokens_than_there_is_room_for_are_an_error():
    with pytest.raises((RuntimeError, IndexError)):
        Offsets(2).put(torch.zeros(3, 4, dtype=torch.int64), torch.ones(4, dtype=torch.bool))


def test_a_full_pass_has_the_strides_of_any_other():
    offsets = Offsets(5)
    full, part = (offsets.taken(torch.zeros(3, tokens, dtype=torch.int64)) for tokens in (5, 2))
    assert full.stride() == part.stride()
    assert not full.is_contiguous()
