"""What is tried every day."""

from itertools import combinations, product

import pytest
from effort import covering, in_part
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(("sizes", "most"), [((4, 2, 2, 3), 14), ((5, 5, 4), 32), ((3, 30), 90)], ids=str)
def test_any_two_values_meet(sizes, most):
    cases = [dict(zip("abcd", values, strict=False)) for values in product(*map(range, sizes))]
    taken = [cases[number] for number in covering(cases, 2)]
    for one, other in combinations("abcd"[: len(sizes)], 2):
        met = {(case[one], case[other]) for case in taken}
        assert met == set(product(range(sizes["abcd".index(one)]), range(sizes["abcd".index(other)])))
    assert len(taken) <= most


def test_each_value_is_there_with_all_others_in_turn():
    cases = [{"a": a, "b": b} for a, b in product(range(3), range(30))]
    taken = [cases[number] for number in covering(cases, 1)]
    assert len(taken) == 30
    assert {case["b"] for case in taken} == set(range(30))
    assert [sum(case["a"] == a for case in taken) for a in range(3)] == [10, 10, 10]


@given(st.lists(st.text(min_size=1), unique=True, max_size=30), st.integers(1, 5))
def test_every_module_is_in_one_part(names, count):
    parts = [[name for name in names if in_part(name, f"{number}/{count}")] for number in range(1, count + 1)]
    assert sorted(name for part in parts for name in part) == sorted(names)


@pytest.mark.parametrize("part", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3"])
def test_a_part_that_is_none_is_refused(part):
    with pytest.raises(ValueError, match="a part is written as 2/3"):
        in_part("tests/x.py", part)
