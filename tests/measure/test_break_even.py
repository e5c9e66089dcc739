"""Where two lines of time over length cross."""

import pytest

from tokensieve.measure import Estimate, Row, Setting
from tokensieve.measure.break_even import break_evens, crossing

PLAIN = [(64, 10.0), (576, 266.0)]
"""Ten milliseconds at 64 tokens, and half a millisecond for each further one."""


@pytest.mark.parametrize(
    ("pruned", "found"),
    [
        ([(576, 60.0)], 164.0),
        ([(288, 60.0), (576, 60.0)], 164.0),
        # A quarter of a millisecond a token beside 36 of overhead: 36 + n/4 = n/2 - 22.
        ([(288, 108.0), (576, 180.0)], 232.0),
        ([(576, 9.0)], "always"),
        ([(288, 200.0), (576, 400.0)], "never"),
        ([(288, 1.0), (576, 200.0)], "always"),
    ],
)
def test_where_pruning_begins_to_be_faster(pruned, found):
    assert crossing(PLAIN, pruned, 64) == (found if isinstance(found, str) else pytest.approx(found))


def row(role, name, visual, kept, first, batch=1):
    one = Estimate(1.0, 1.0, 1.0, 1)
    setting = Setting(batch, visual, 64, "float32", "sdpa")
    return Row(setting, role, name, kept, Estimate(first, first, first, 1), one, one, one, one, one, one, None, None, 0)


def test_encoding_pictures_is_left_out_and_batches_are_apart():
    rows = [
        row("unpruned", "unpruned", 576, 576, 267.0),
        row("recipe", "a", 576, 64, 61.0),
        row("floor", "floor", 576, 64, 11.0),
        row("unpruned", "unpruned", 576, 576, 1001.0, batch=8),
        row("recipe", "a", 576, 64, 1.0, batch=8),
        row("floor", "floor", 576, 64, 11.0, batch=8),
    ]
    one, eight = break_evens(rows)
    assert (one.recipe, one.setting.batch, one.visual, one.lengths) == ("a", 1, pytest.approx(164.0), 1)
    assert (eight.setting.batch, eight.visual) == (8, "always")
