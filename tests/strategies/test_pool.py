import math
from fractions import Fraction

import hard
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import row, sample

from tokensieve import Evidence, Keep, Tokens, Universe, select
from tokensieve.errors import FormulaError
from tokensieve.evidence import NEWLINE
from tokensieve_strategies import GSP, Pool


def dealt(k, sizes):
    """One for each, the others by the quotients of all seats at once."""
    claims = sorted(
        (-Fraction(size, 2 * seat + 1), part) for part, size in enumerate(sizes) for seat in range(size - 1)
    )
    return [1 + sum(own == part for _, own in claims[: k - len(sizes)]) for part in range(len(sizes))]


def pool(grid, k):
    """The cells, as sets of places."""
    n = len(grid)
    k = min(k, n)
    pictures = sorted({tuple(cell[:3]) for cell in grid})
    own = [[i for i in range(n) if tuple(grid[i][:3]) == p] for p in pictures]
    if k < len(own):
        return [{i for p, places in enumerate(own) if p * k // len(own) == c for i in places} for c in range(k)]
    cells = []
    for places, share in zip(own, dealt(k, [len(p) for p in own]), strict=True):
        column = {i: math.inf if grid[i][4] == NEWLINE else grid[i][4] for i in places}
        rows = sorted({grid[i][3] for i in places})
        w = len(set(column.values()))
        b = min(len(rows), share, max(1, math.floor(math.sqrt(share * len(rows) / w) + 0.5)))
        bands = [[i for i in places if rows.index(grid[i][3]) * b // len(rows) == band] for band in range(b)]
        for band, c in zip(bands, dealt(share, [len(band) for band in bands]), strict=True):
            read = sorted(band, key=lambda i: (column[i], grid[i][3], i))
            cells += [{token for i, token in enumerate(read) if i * c // len(read) == cell} for cell in range(c)]
    return cells


def middle(grid, cell):
    mean = [Fraction(sum(grid[i][axis] for i in cell), len(cell)) for axis in range(5)]
    return min(cell, key=lambda i: (sum((grid[i][axis] - m) ** 2 for axis, m in enumerate(mean)), i))


@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=3),
    seed=st.integers(0, 999),
    shape=st.sampled_from([None, (1, 1, 3, 3, 4), (2, 2, 2, 3, 3), (1, 1, 12, 1, 2)]),
    k=st.integers(1, 31),
)
@settings(deadline=None, max_examples=examples(150))
def test_it_is_the_method(counts, seed, shape, k):
    tokens = sample(counts, seed=seed)
    if shape is not None:
        g = torch.Generator().manual_seed(seed)
        for axis, extent in enumerate(shape):
            low = -1 if axis == 4 else 0
            tokens.grid[..., axis] = torch.randint(low, extent, tokens.valid.shape, generator=g)
    found = select(Pool(), tokens, Keep.of(k)).mask
    reduction = Pool().assign(tokens, tokens.universe.counts.clamp(max=k))
    merged = reduction.apply(tokens.features.double())
    for number, n in enumerate(counts):
        one = row(tokens, number)
        grid = one.grid[0].tolist()
        by_middle = {middle(grid, cell): cell for cell in pool(grid, k)}
        assert len(by_middle) == min(k, n)
        assert found[number].nonzero().flatten().tolist() == sorted(by_middle)
        slots = reduction.slot[number, :n].tolist()
        for slot, place in enumerate(sorted(by_middle)):
            members = sorted(by_middle[place])
            assert [i for i in range(n) if slots[i] == slot] == members
            weight = one.sizes[0, members].double().unsqueeze(1)
            mean = (one.features[0, members].double() * weight).sum(dim=0) / weight.sum()
            torch.testing.assert_close(merged[number, slot], mean)


def picture(height, width, d=4):
    at = torch.tensor([[0, 0, 0, r, c] for r in range(height) for c in range(width)]).unsqueeze(0)
    x = torch.randn(1, height * width, d, generator=torch.Generator().manual_seed(0))
    return Tokens(Universe.full(1, height * width), {Evidence.FEATURES: x, Evidence.GRID: at})


@pytest.mark.parametrize(("side", "k"), [(2, 144), (3, 64), (4, 36), (6, 16), (8, 9), (24, 1)])
def test_a_square_number_of_cells_is_average_pooling(side, k):
    tokens = picture(24, 24)
    merged = Pool().assign(tokens, torch.tensor([k])).apply(tokens.features)
    image = tokens.features[0].T.reshape(1, 4, 24, 24)
    expected = torch.nn.functional.avg_pool2d(image, side).reshape(4, k).T
    # Cells come in the order of their middles, which is theirs.
    torch.testing.assert_close(merged[0], expected)


def test_any_number_of_cells_is_even():
    for height, width in ((24, 24), (7, 30), (30, 7), (1, 12)):
        tokens = picture(height, width)
        n = height * width
        for k in {1, 2, 5, 11, n // 3, n - 1, n}:
            sizes = Pool().assign(tokens, torch.tensor([k])).mass(tokens.sizes)[0]
            assert len(sizes) == k
            assert sizes.sum() == n
            if k <= n // 4:
                assert sizes.max() <= 2 * sizes.min() + 1


def test_more_frames_than_cells_are_averaged_over_time():
    tokens = sample([24])
    tokens.grid[0, :, 2] = torch.arange(24) // 4
    tokens.grid[0, :, 3:] = 0
    tokens.grid[0, :, 4] = torch.arange(24) % 4
    reduction = Pool().assign(tokens, torch.tensor([3]))
    assert reduction.slot[0].tolist() == [0] * 8 + [1] * 8 + [2] * 8
    # And fewer have a cell each at least.
    assert Pool().assign(tokens, torch.tensor([7])).slot[0].unique().tolist() == list(range(7))


def test_no_cell_reaches_into_another_picture():
    tokens = sample([24])
    tokens.grid[0, :, 1] = torch.arange(24) // 8
    for k in range(3, 25):
        slot = Pool().assign(tokens, torch.tensor([k])).slot[0]
        assert all(len(tokens.grid[0, slot == s, 1].unique()) == 1 for s in range(k))


def test_a_newline_ends_its_row():
    tokens = picture(4, 5)
    tokens.grid[0, 4::5, 4] = NEWLINE
    at_the_end = picture(4, 5)
    for k in range(1, 21):
        slots = [Pool().assign(t, torch.tensor([k])).slot for t in (tokens, at_the_end)]
        sizes = [torch.bincount(s[0]).sort().values.tolist() for s in slots]
        assert sizes[0] == sizes[1]


def test_it_is_a_choice_too():
    tokens = picture(24, 24)
    mask = select(Pool(), tokens, Keep.of(64)).mask[0].reshape(24, 24)
    assert mask[1::3, 1::3].all()
    with pytest.raises(FormulaError, match=r"such as pool\[64\]"):
        Pool() & GSP()
    assert select(Pool()[100] & GSP(), tokens, Keep.of(20)).mask.sum() == 20


def test_hard_batches():
    hard.check(Pool())
    assert Pool().needs == {Evidence.GRID, Evidence.SIZES}
    tokens = sample([5, 0, 3])
    reduction = Pool().assign(tokens, torch.tensor([0, 0, 3]))
    assert (reduction.slot[0] == -1).all()
    assert reduction.slot[2, :3].tolist() == [0, 1, 2]
