import math

import loops
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, row, sample

from tokensieve import Keep, select
from tokensieve.errors import ScoreError, SettingError
from tokensieve_strategies import PixelPrune

DISTANCES = {
    "max": lambda a, b: max((abs(p - q) for p, q in zip(a, b, strict=True)), default=0.0),
    "mae": lambda a, b: math.fsum(abs(p - q) for p, q in zip(a, b, strict=True)) / len(a),
    "rmse": lambda a, b: math.sqrt(math.fsum((p - q) ** 2 for p, q in zip(a, b, strict=True)) / len(a)),
}


def read(x, grid, tau, metric):
    """Read a picture from left to right and from above: how much every token differs from what is predicted of it,
    and what it is taken for from there on."""
    distance = DISTANCES[metric]
    cells = {}
    for i, place in enumerate(grid):
        cells.setdefault(tuple(place), i)
    scores, taken = {}, {}
    for i in sorted(range(len(x)), key=lambda i: (tuple(grid[i][:4]), grid[i][4], i)):
        *frame, r, c = grid[i]
        left, above, corner = (cells.get((*frame, r - dr, c - dc)) for dr, dc in ((0, 1), (1, 0), (1, 1)))
        guess = taken.get(above) if left is None else taken.get(left)
        if left is not None and above is not None and corner is not None:
            near_left = distance(taken[corner], taken[left])
            if near_left <= tau < distance(taken[corner], taken[above]):
                guess = taken[above]
        scores[i] = math.inf if guess is None else distance(x[i], guess)
        taken[i] = x[i] if scores[i] > tau else guess
    return [scores[i] for i in range(len(x))], [taken[i] for i in range(len(x))]


def picture(values, frames=1):
    """Tokens of one number each, of a picture that is written row by row."""
    height, width = len(values) // frames, len(values[0])
    tokens = sample([len(values) * width], "normal", 0, d=1)
    place = torch.arange(len(values) * width)
    tokens.grid[0] = torch.stack(
        [place * 0, place * 0, place // (height * width), place // width % height, place % width], dim=1
    )
    tokens.features[0, :, 0] = torch.tensor(values, dtype=tokens.features.dtype).flatten()
    return tokens


def kept(tokens, keep="auto", **given_settings):
    return select(PixelPrune(**given_settings), tokens, Keep.of(keep)).mask[0].nonzero().flatten().tolist()


@given(
    counts=st.lists(st.integers(0, 24), min_size=1, max_size=3),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    tau=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    metric=st.sampled_from(sorted(DISTANCES)),
    extents=st.sampled_from([(1, 1, 1, 5, 5), (1, 1, 2, 3, 4), (2, 1, 1, 2, 9)]),
)
@settings(deadline=None, max_examples=examples(120))
def test_it_is_the_formula(counts, kind, seed, tau, metric, extents):
    tokens = sample(counts, kind, seed)
    g = torch.Generator().manual_seed(seed)
    cells = torch.cartesian_prod(*(torch.arange(extent) for extent in extents))
    for number, n in enumerate(counts):
        # Some cells of a picture are empty, as where an earlier stage took tokens away.
        chosen = torch.randperm(len(cells), generator=g)[:n].sort().values
        tokens.grid[number, : len(chosen)] = cells[chosen]
    # Whole numbers make equal vectors, and exact distances.
    tokens.features.copy_(tokens.features.round().clamp(-1, 1))
    own = select(PixelPrune(tau=tau, metric=metric), tokens, Keep.of("auto")).mask
    cut = {k: select(PixelPrune(tau=tau, metric=metric), tokens, Keep.of(k)).mask for k in (1, 5, 13)}
    for number, n in enumerate(counts):
        one = row(tokens, number)
        scores, taken = read(one.features[0].tolist(), one.grid[0].tolist(), tau, metric)
        order = loops.falling([round(min(score, 1e6), 6) for score in scores])
        assert own[number].nonzero().flatten().tolist() == [i for i in range(n) if scores[i] > tau]
        for k, mask in cut.items():
            assert mask[number].nonzero().flatten().tolist() == sorted(order[:k])
        # Errors do not add up.
        for x, value in zip(one.features[0].tolist(), taken, strict=True):
            assert DISTANCES[metric](x, value) <= tau


def test_flat_pictures_and_edges():
    assert kept(picture([[7, 7, 7], [7, 7, 7]])) == [0]
    # Two halves side by side: from the second row on, the edge is predicted from above.
    assert kept(picture([[1, 1, 2, 2], [1, 1, 2, 2], [1, 1, 2, 2]])) == [0, 2]
    # One above the other: the first of the new row is a surprise, the rest follows it.
    assert kept(picture([[1, 1, 1], [2, 2, 2], [2, 2, 2]])) == [0, 3]
    # A rectangle on a ground costs its corners, not its area.
    ground = [[0] * 6 for _ in range(6)]
    for r in range(2, 5):
        for c in range(2, 5):
            ground[r][c] = 9
    assert len(kept(picture(ground))) <= 5


def test_steps_that_add_up_are_noticed():
    """Each token differs from the one before by 1, and what a token is taken for stays behind."""
    slope = [[0, 1, 2, 3, 4, 5, 6]]
    assert kept(picture(slope), tau=1.0) == [0, 2, 4, 6]
    assert kept(picture(slope), tau=2.0) == [0, 3, 6]
    assert kept(picture(slope), tau=6.0) == [0]


def test_every_frame_is_read_by_itself():
    assert kept(picture([[3, 3], [3, 3], [3, 3], [3, 3]], frames=2)) == [0, 4]


def test_budgets_take_the_greatest_surprises():
    tokens = picture([[0, 0, 5, 5, 7, 7]])
    assert kept(tokens, 2) == [0, 2]
    assert kept(tokens, 3) == [0, 2, 4]
    assert kept(tokens, 4) == [0, 1, 2, 4]


def test_wrong_settings_and_features():
    for wrong in ({"tau": -1.0}, {"tau": math.inf}, {"metric": "ssim"}):
        with pytest.raises(SettingError):
            PixelPrune(**wrong)
    tokens = picture([[0, math.nan, 1]])
    with pytest.raises(ScoreError, match="NaN"):
        kept(tokens)
