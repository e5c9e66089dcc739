"""Strategies that write into their tokens, or answer nonsense: an error names them, and the model is as before."""

import numpy as np
import pytest
import torch

import tokensieve as ts
from tokensieve import Chain, Chooser, Composer, Evidence, Keep, Merger, Ranker, Reduction, Scorer, Tokens, Universe
from tokensieve.algebra.universe import draw
from tokensieve.engine.stage_selection import TokenPool, select_stage
from tokensieve.engine.token_layout import TokenLayout
from tokensieve.errors import AlgebraError, ScoreError
from tokensieve.evidence import Query
from tokensieve.testing.generators import ByFeature

A = ByFeature()


class Judge(Scorer):
    """Calls a function, and scores by it, or by the first feature if it returns nothing."""

    name = "judge"
    needs = frozenset({Evidence.FEATURES, Evidence.GRID, Evidence.QUERY})

    def score(self, tokens):
        return self.act(tokens)


def judge(act):
    return type("Acting", (Judge,), {"act": staticmethod(act)})()


def pool(rows=2, n=16):
    generator = torch.Generator().manual_seed(2)
    features = torch.rand(rows, n, 3, generator=generator)
    query = Query(torch.rand(rows, n, 4), torch.rand(rows, 2, 4), torch.ones(rows, 2, dtype=torch.bool), "clip")
    grid = torch.arange(n).reshape(1, n, 1).expand(rows, n, 5).contiguous()
    grid[..., :3] = 0
    evidence = {Evidence.FEATURES: lambda: features, Evidence.QUERY: lambda: query}
    alive = torch.ones(rows, n, dtype=torch.bool)
    return TokenPool(alive, TokenLayout.of(grid), torch.arange(rows), evidence)


def cut(expression, keep=5, of=None, **stage):
    of = pool() if of is None else of
    recipe = ts.Recipe.of(expression, keep, **stage)
    return select_stage(recipe, recipe.stages[0], of, {})[1]


def known(of):
    """Everything that the model goes on with."""
    query = of.evidence[Evidence.QUERY]()
    tensors = [
        of.alive,
        of.layout.grid.on(of.alive.device),
        of.sizes,
        of.keys,
        of.evidence[Evidence.FEATURES](),
        query.patch,
        query.text,
        query.mask,
    ]
    return [x.clone() for x in tensors]


def centred(tokens):
    tokens.features.sub_(tokens.features.mean(dim=1, keepdim=True))
    return tokens.features[..., 0]


def writes(place):
    def act(tokens):
        place(tokens).zero_()
        return torch.zeros(tokens.valid.shape)

    return act


WRITES = {
    "tokens.valid": writes(lambda tokens: tokens.valid),
    "tokens.ids": writes(lambda tokens: tokens.ids),
    "tokens.keys": writes(lambda tokens: tokens.keys),
    "tokens.samples": writes(lambda tokens: tokens.samples),
    "tokens.grid": writes(lambda tokens: tokens.grid[..., 3]),
    "tokens.query.patch": writes(lambda tokens: tokens.query.patch),
    "tokens.query.text": writes(lambda tokens: tokens.query.text[:, 0]),
    "tokens.query.mask": writes(lambda tokens: tokens.query.mask),
    "tokens.features": centred,
}


@pytest.mark.parametrize("per", ["image", "tile"])
@pytest.mark.parametrize("place", WRITES)
def test_a_write_in_place_is_refused_and_changes_nothing(place, per):
    of = pool()
    before = known(of)
    for expression in (judge(WRITES[place]), judge(WRITES[place]) & A, A[12] >> judge(WRITES[place])):
        with pytest.raises(ScoreError, match=f"'judge' wrote into {place} in place"):
            cut(expression, of=of, per=per)
    assert all(torch.equal(x, y) for x, y in zip(before, known(of), strict=True))


@pytest.mark.parametrize("place", [place for place in WRITES if place not in ("tokens.valid", "tokens.ids")])
def test_in_inference_mode_a_strategy_writes_into_a_copy(place):
    with torch.inference_mode():
        of = pool()
        before = known(of)
        record = cut(judge(WRITES[place]) & A, of=of)
        assert [len(sample.kept) for sample in record.samples] == [5, 5]
        assert all(torch.equal(x, y) for x, y in zip(before[4:], known(of)[4:], strict=True))


@pytest.mark.parametrize("inference", [False, True])
def test_a_write_that_no_counter_sees_misses_no_budget_and_changes_no_model(inference):
    def hide(tokens):
        tokens.valid.data.zero_()
        tokens.features.data.zero_()
        return torch.zeros(tokens.ids.shape)

    with torch.inference_mode(inference):
        of = pool()
        before = known(of)
        with pytest.raises(ScoreError, match="judge"):
            cut(judge(hide), of=of)
        assert all(torch.equal(x, y) for x, y in zip(before, known(of), strict=True))


NONSENSE = {
    "None": (lambda tokens: None, "NoneType"),
    "numpy": (lambda tokens: tokens.features[..., 0].numpy().copy(), "ndarray"),
    "a list": (lambda tokens: tokens.features[..., 0].tolist(), "list"),
    "a number": (lambda tokens: 1.0, "float"),
    "complex": (lambda tokens: tokens.features[..., 0].to(torch.complex64), "complex"),
    "meta": (lambda tokens: tokens.features[..., 0].to("meta"), "on meta"),
    "sparse": (lambda tokens: tokens.features[..., 0].to_sparse(), "sparse"),
    "floats of 8 bits": (lambda tokens: tokens.features[..., 0].to(torch.float8_e4m3fn), "float8_e4m3fn"),
    "NaN": (lambda tokens: tokens.features[..., 0] * torch.nan, "NaN"),
    "one a row": (lambda tokens: tokens.features.mean(dim=(1, 2)), r"shape \[2\]"),
    "one a feature": (lambda tokens: tokens.features, r"shape \[2, 16, 3\]"),
    "turned": (lambda tokens: tokens.features[..., 0].T, r"shape \[16, 2\]"),
    "a chain": (lambda tokens: Chain.from_scores(tokens.universe, tokens.features[..., 0], "x"), "Chain"),
}


@pytest.mark.parametrize("answer", NONSENSE)
def test_scores_that_are_none(answer):
    act, match = NONSENSE[answer]
    for expression in (judge(act), judge(act) & A, A - judge(act)):
        with pytest.raises(ScoreError, match=rf"(?s)Acting.*{match}"):
            cut(expression)


class Picker(Ranker):
    name = "picker"

    def rank(self, tokens, depth):
        return self.act(tokens, depth)


class Collector(Chooser):
    name = "collector"

    def choose(self, tokens):
        return self.act(tokens)


def first(n):
    return torch.arange(n).expand(2, -1)


PICKS = {
    "None": (lambda tokens, depth: None, "returned NoneType; rank returns a Chain"),
    "a tensor": (lambda tokens, depth: first(16), "returned Tensor; rank returns a Chain"),
    "other tokens": (lambda tokens, depth: Chain.from_picks(Universe.full(2, 9), first(9), "x"), "of other tokens"),
    "other rows": (lambda tokens, depth: Chain.from_picks(tokens.universe, first(16)[:1], "x"), r"expected int64 \[2"),
    "floats": (lambda tokens, depth: Chain.from_picks(tokens.universe, first(16).double(), "x"), "float64"),
    "a list of picks": (lambda tokens, depth: Chain.from_picks(tokens.universe, first(16).tolist(), "x"), "list"),
    "beyond": (
        lambda tokens, depth: Chain.from_picks(tokens.universe, first(16) + 1, "x"),
        "places 1 to 16; .* 0 to 15",
    ),
    "negative": (lambda tokens, depth: Chain.from_picks(tokens.universe, first(16) - 7, "x"), "places -7 to 8"),
    "twice": (lambda tokens, depth: Chain.from_picks(tokens.universe, first(16) // 2, "x"), "another token"),
    "meta": (lambda tokens, depth: Chain.from_picks(tokens.universe, first(16).to("meta"), "x"), "on meta"),
}
SETS = {
    "None": (lambda tokens: None, "returned NoneType; choose returns a Chain"),
    "a mask": (lambda tokens: tokens.valid, "returned Tensor; choose returns a Chain"),
    "numbers": (lambda tokens: Chain.from_set(tokens.universe, first(16), "x"), "expected bool"),
    "numpy": (lambda tokens: Chain.from_set(tokens.universe, np.ones((2, 16), dtype=bool), "x"), "ndarray"),
    "meta": (lambda tokens: Chain.from_set(tokens.universe, tokens.valid.to("meta"), "x"), "on meta"),
    "other tokens": (
        lambda tokens: Chain.from_set(Universe.full(2, 9), torch.ones(2, 9, dtype=torch.bool), "x"),
        "of other tokens",
    ),
}


@pytest.mark.parametrize("answer", PICKS)
def test_orders_that_are_none(answer):
    act, match = PICKS[answer]
    ranker = type("Acting", (Picker,), {"act": staticmethod(act)})()
    for expression in (ranker, ranker & A):
        with pytest.raises(ScoreError, match=match):
            cut(expression)


@pytest.mark.parametrize("answer", SETS)
def test_sets_that_are_none(answer):
    act, match = SETS[answer]
    with pytest.raises(ScoreError, match=match):
        cut(type("Acting", (Collector,), {"act": staticmethod(act)})() & A)


class Joiner(Merger):
    """A merger that folds all that goes into the first kept token."""

    name = "joiner"

    def rank(self, tokens, depth):
        return Chain.from_scores(tokens.universe, -tokens.ids.double(), self)

    def assign(self, tokens, keep):
        slot = torch.where(tokens.ids < keep.unsqueeze(1), tokens.ids, 0)
        valid = torch.ones(len(keep), int(keep.max()), dtype=torch.bool)
        return Reduction(slot, torch.full(slot.shape, 0.5), valid)


def test_mergers_that_write_or_answer_nonsense():
    assert [len(sample.kept) for sample in cut(Joiner(), rest="merge").samples] == [5, 5]

    class Writes(Joiner):
        def assign(self, tokens, keep):
            tokens.features.zero_()
            return super().assign(tokens, keep)

    class Beyond(Joiner):
        def assign(self, tokens, keep):
            right = super().assign(tokens, keep)
            return Reduction(right.slot + 1, right.weight, right.valid)

    class Nothing(Joiner):
        def assign(self, tokens, keep):
            return None

    class Infinite(Joiner):
        def assign(self, tokens, keep):
            right = super().assign(tokens, keep)
            return Reduction(right.slot, right.weight / 0, right.valid)

    class FoldsTooFew(Joiner):
        def fold(self, tokens, keep):
            return torch.zeros(tokens.valid.shape, dtype=torch.bool), self.assign(tokens, keep)

    class FoldsNumbers(Joiner):
        def fold(self, tokens, keep):
            return tokens.ids, self.assign(tokens, keep)

    for merger, match in (
        (Writes(), "'joiner' wrote into tokens.features"),
        (Beyond(), "no number of a kept token"),
        (Nothing(), "returned NoneType; assign returns a Reduction"),
        (Infinite(), "not finite"),
        (FoldsTooFew(), r"kept \[0, 0\] tokens of its groups, where the budget 5 is \[5, 5\]"),
        (FoldsNumbers(), r"expected bool \[2, 16\]"),
    ):
        with pytest.raises(ScoreError, match=match):
            cut(merger, rest="merge")


def test_composers_that_write_answer_nonsense_or_cut_otherwise():
    class Writes(Composer):
        name = "writes"

        def combine(self, chains):
            chains[0].level.zero_()
            return chains[1]

    class Mine(Chain):
        def cut(self, k, by=None):
            return torch.zeros_like(self.universe.valid)

    class Empty(Composer):
        name = "empty"

        def combine(self, chains):
            one = chains[0]
            return Mine(one.universe, one.level, one.depth, one.leaves)

    with pytest.raises(AlgebraError, match="'writes' wrote into a chain of an operand in place"):
        cut(Writes.of(A, A))
    with pytest.raises(ScoreError, match=r"kept \[0, 0\] tokens of its groups, where the budget 5 is \[5, 5\]"):
        cut(Empty.of(A, A))


def test_a_draw_of_its_own_is_no_write():
    """Copies, views and new tensors are what strategies work with."""
    act = lambda tokens: draw(0, tokens.keys, tokens.ids).sub_(tokens.features.clone().zero_()[..., 0])  # noqa: E731
    assert [len(sample.kept) for sample in cut(judge(act)).samples] == [5, 5]
    assert ts.select(judge(act), Tokens.of(torch.rand(1, 4, 2)), Keep.of(2)).mask.sum() == 2
