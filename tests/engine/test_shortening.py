"""Shortening a padded batch, against a loop over rows."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from tokensieve.engine.shortening import shorten

ROW = st.lists(st.sampled_from(["stay", "go", "padding"]), min_size=1, max_size=9)


def by_hand(rows, left):
    """What stands in each row: places that stay, and padding, in order; the rest of the width is fillers."""
    n = len(rows[0])
    lengths = [sum(place != "padding" for place in row) for row in rows]
    sizes = [sum(place == "stay" for place in row) for row in rows]
    width = max(sizes) + n - max(lengths)
    made = []
    for row, size in zip(rows, sizes, strict=True):
        padding = [i for i, place in enumerate(row) if place == "padding"]
        # That beside the text goes last, so that the batch is as it was where nothing leaves.
        room = width - size
        padding = (padding[-room:] if left else padding[:room]) if room else []
        held = sorted([i for i, place in enumerate(row) if place == "stay"] + padding)
        made.append((held, width - len(held)))
    return made, width


@given(st.lists(ROW, min_size=1, max_size=4), st.booleans(), st.booleans())
def test_shortening(rows, left, told):
    n = max(map(len, rows))
    rows = [["padding"] * (n - len(row)) + row if left else row + ["padding"] * (n - len(row)) for row in rows]
    keep = torch.tensor([[place != "go" for place in row] for row in rows])
    valid = torch.tensor([[place != "padding" for place in row] for row in rows])
    sizes = [sum(place == "stay" for place in row) for row in rows] if told else None
    lengths = valid.sum(dim=1).tolist() if told else None
    found = shorten(keep, valid, left, sizes, lengths)
    right, width = by_hand(rows, left)
    assert found.index.shape == (len(rows), width)
    for row, (held, fillers) in enumerate(right):
        side = slice(fillers, None) if left else slice(None, width - fillers)
        assert found.index[row, side].tolist() == held
        assert found.mask[row, side].tolist() == [rows[row][place] == "stay" for place in held]
        assert int(found.filler[row].sum()) == fillers
        assert not found.filler[row, side].any()
        assert not (found.mask[row] & found.filler[row]).any()
    assert found.padded == (not bool(found.mask.all()))


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.booleans())
def test_keeping_everything_is_the_identity(lengths, left):
    n = max(lengths)
    valid = torch.tensor([[(i >= n - size) if left else (i < size) for i in range(n)] for size in lengths])
    found = shorten(torch.ones_like(valid), valid, left)
    assert torch.equal(found.index, torch.arange(n).expand_as(found.index))
    assert torch.equal(found.mask, valid)
    assert not found.filler.any()
