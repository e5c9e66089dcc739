"""Exactly as many tokens stay as the recipe says, whatever it is."""

import random
from fractions import Fraction

import pytest
import torch
from effort import examples

import tokensieve as ts
from tokensieve.engine.stage_selection import TokenPool, select_stage
from tokensieve.engine.token_layout import TokenLayout
from tokensieve.evidence import Evidence, Query
from tokensieve_strategies import GSP, QCSP, FastV, Norm, Random, ToMe, Uniform

from .models import IMAGE, batch, prompts, shared

LEAVES = (Norm(), Norm(p=1.0), Uniform(), Random(), Random(seed=1), GSP(), QCSP(), FastV(), ToMe())


def expression(draw, depth=2):
    if not depth or draw.random() < 0.3:
        leaf = draw.choice(LEAVES)
        return leaf[draw.randint(1, 9)] if draw.random() < 0.15 else leaf
    a, b = expression(draw, depth - 1), expression(draw, depth - 1)
    return draw.choice((lambda: a & b, lambda: a | b, lambda: a - b, lambda: a ^ b, lambda: ~a))()


def budget(draw, n):
    """A budget, and what it is of `n` tokens."""
    if draw.random() < 0.5:
        k = draw.randint(1, n + 3)
        return k, min(k, n)
    part = Fraction(draw.randint(1, 12), 12)
    return str(part) if part < 1 else "100%", max(1, int(part * n))


def pool(draw, sides):
    """A batch with images of `side` x `side` tokens, `sides` by row."""
    width = max(sum(side * side for side in row) for row in sides)
    grid = torch.zeros(len(sides), width, 5, dtype=torch.int64)
    alive = torch.zeros(len(sides), width, dtype=torch.bool)
    for i, row in enumerate(sides):
        at = 0
        for image, side in enumerate(row):
            place = torch.arange(side * side)
            grid[i, at : at + side * side, 0] = image
            grid[i, at : at + side * side, 3], grid[i, at : at + side * side, 4] = place // side, place % side
            at += side * side
        alive[i, :at] = True
    noise = torch.Generator().manual_seed(draw.randint(0, 2**31))
    # Small integers, so that there are many ties.
    features = torch.randint(-2, 3, (len(sides), width, 6), generator=noise).float()
    text = torch.randint(-2, 3, (len(sides), 3, 6), generator=noise).float()
    query = Query(features, text, torch.ones(len(sides), 3, dtype=torch.bool), "text embeddings")
    fresh = {
        Evidence.FEATURES: lambda: features,
        Evidence.QUERY: lambda: query,
        Evidence.DECODER_ATTENTION: lambda: features.abs(),
    }
    return TokenPool(alive, TokenLayout.of(grid, tuple(alive.sum(dim=1).tolist())), torch.arange(len(sides)), {}), fresh


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(2, 10))])
def test_a_thousand_recipes(seed):
    draw = random.Random(seed)  # noqa: S311
    for _ in range(100):
        sides = [[draw.randint(1, 5) for _ in range(draw.randint(0, 3))] for _ in range(draw.randint(1, 3))]
        sides[0] = sides[0] or [4]
        tokens, fresh = pool(draw, sides)
        per = draw.choice(("image", "sample"))
        select, rest = expression(draw), draw.choice(("drop", "drop", "merge"))
        keep, _ = budget(draw, 9)
        stage = ts.Stage(at="decoder.1", select=select, keep=keep, per=per, rest=rest)
        before = tokens.alive.clone()
        outcome, record = select_stage(ts.Recipe(stages=(stage,)), stage, tokens, fresh)
        assert not (outcome.keep & ~before).any()
        for i, row in enumerate(sides):
            sizes = [side * side for side in row]
            groups = sizes if per == "image" else [sum(sizes)] if sizes else []
            at = 0
            for n in groups:
                wanted = min(keep, n) if isinstance(keep, int) else counted(keep, n)
                assert int(outcome.keep[i, at : at + n].sum()) == wanted, (str(stage), sides)
                at += n
            assert record.samples[i].kept.tolist() == torch.nonzero(outcome.keep[i]).flatten().tolist()
        if rest == "merge":
            torch.testing.assert_close(tokens.sizes.sum(dim=1), before.sum(dim=1).double())


def counted(keep, n):
    part = Fraction(1) if keep == "100%" else Fraction(keep)
    return max(1, int(part * n))


@torch.no_grad()
def test_some_of_them_in_a_model():
    draw, model = random.Random(99), shared("sdpa")  # noqa: S311
    for _ in range(examples(40)):
        layout = draw.choice(([[2, IMAGE, 5], [7], [1, IMAGE, IMAGE, 3]], [[3, IMAGE, 2]]))
        blocks, n, stages, wanted = sorted(draw.sample(range(4), draw.randint(1, 3))), 16, [], []
        for block in blocks:
            keep, n = budget(draw, n)
            select = expression(draw)
            while not block and any(isinstance(leaf, FastV) for leaf in select.strategies()):
                select = expression(draw)
            rest = draw.choice(("drop", "merge"))
            stages.append(ts.Stage(at=f"decoder.{block}", select=select, keep=keep, rest=rest))
            wanted.append(n)
        rows = prompts(model, layout)
        with ts.prune(model, ts.Recipe(stages=tuple(stages))) as run:
            model(**batch(rows))
        for block, k in zip(blocks, wanted, strict=True):
            assert [len(ids) for ids in run.kept(f"decoder.{block}")] == [k * row.images for row in rows]
