"""The torch implementation against the one of reference.py."""

import hypothesis.strategies as st
import torch
from effort import examples
from hypothesis import given, settings

from tokensieve.algebra.budget import apportion, counts
from tokensieve.composers.selection import select
from tokensieve.testing.generators import batches, expressions, keeps, shares

from .reference import cut, dealt, ranked, rows_of


def ids(tokens, mask):
    return [sorted(row_ids[row].tolist()) for row_ids, row in zip(tokens.ids, mask, strict=True)]


def chosen(expression, tokens, k, by=None):
    return select(expression, tokens, torch.full_like(tokens.universe.counts, k), by).mask


@settings(max_examples=examples(300))
@given(batches(max_rows=3, max_n=12), expressions(max_leaves=6), st.data())
def test_every_cut_is_the_one_of_the_definitions(tokens, expression, data):
    rows = rows_of(tokens)
    orders = [ranked(expression, row) for row in rows]
    n = tokens.universe.n
    for k in {0, 1, n, n + 1, *data.draw(st.lists(st.integers(0, 12), min_size=2, max_size=2))}:
        expected = [sorted(t.id for t in order[:k]) for order in orders]
        assert ids(tokens, chosen(expression, tokens, k)) == expected


@given(batches(max_rows=3, max_n=10), expressions(), expressions(max_leaves=3), st.integers(0, 11))
def test_an_explicit_by_is_the_order_of_that_expression(tokens, expression, by, k):
    expected = [sorted(t.id for t in cut(expression, row, k, by)) for row in rows_of(tokens)]
    assert ids(tokens, chosen(expression, tokens, k, by)) == expected


@given(batches(max_rows=3, max_n=12), expressions(max_leaves=4), keeps())
def test_a_budget_counts_within_each_group(tokens, expression, keep):
    sizes = counts(keep, tokens.universe.counts).tolist()
    expected = [sorted(t.id for t in cut(expression, row, k)) for row, k in zip(rows_of(tokens), sizes, strict=True)]
    assert ids(tokens, select(expression, tokens, keep).mask) == expected


@given(shares())
def test_dealing_seat_by_seat_is_sorting_all_quotients(parties):
    assert list(apportion(*parties)) == dealt(*parties)
