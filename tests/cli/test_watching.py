"""What each operand would have kept by itself, from one run."""

import textwrap

import pytest
from tests.cli.conftest import QUESTION

import tokensieve as ts
from tokensieve.checkpoints.asking import pruned
from tokensieve.drawing.operands import watch
from tokensieve.study.statistics.overlap import jaccard_of as jaccard

TWO_STAGES = """
name: two
strategies: {graph: gsp, size: norm}
stages:
  - {at: decoder.0, select: graph - size, keep: 96}
  - {at: decoder.2, select: "graph[48] >> fastv", keep: 24}
"""


@pytest.fixture(scope="module")
def registry():
    return ts.default_registry()


@pytest.fixture(scope="module")
def inputs(ready, photo):
    return ready.inputs(photo, QUESTION)


def kept(ready, recipe, inputs, registry):
    with pruned(ready, recipe, None, registry) as run:
        ready.prefill(inputs)
    return [frozenset(stage.samples[0].kept.tolist()) for stage in run.latest.stages]


def alone(recipe, number, operand):
    """The recipe up to a stage, which one operand settles alone."""
    stages = list(recipe.stages[: number + 1])
    stages[number] = stages[number].model_copy(update={"select": operand, "by": None})
    return recipe.replace(stages=tuple(stages))


@pytest.mark.parametrize("name", ["script", "script-merge", "gsp-fastv", "two"])
def test_operands_are_what_they_keep_alone(ready, inputs, registry, name):
    recipe = ts.Recipe.loads(textwrap.dedent(TWO_STAGES)) if name == "two" else ts.Recipe.load(name)
    run, seen = watch(ready, recipe, inputs, None, registry)
    # Watching changes nothing.
    assert [one.kept for one in seen] == kept(ready, recipe, inputs, registry)
    assert run.recipe.hash() == recipe.hash()
    for number, (one, stage) in enumerate(zip(seen, recipe.stages, strict=True)):
        assert one.formula == recipe.formula(stage.select)
        names = {recipe.formula(leaf): leaf for leaf in stage.select.strategies()}
        assert list(one.own) == list(names)
        for operand, leaf in names.items():
            assert one.own[operand] == kept(ready, alone(recipe, number, leaf), inputs, registry)[-1]
            assert len(one.own[operand]) == len(one.kept) == stage.keep.count


@pytest.mark.parametrize("name", ["gsp", "tome", "random"])
def test_a_lone_strategy_is_its_own_operand(ready, inputs, registry, name):
    _, (seen,) = watch(ready, ts.Recipe.load(name), inputs, None, registry)
    assert list(seen.own.values()) == [seen.kept]
    assert seen.entered == 576


def test_the_shares_are_those_of_the_ledger(ready, inputs, registry):
    run, (seen,) = watch(ready, ts.Recipe.load("script"), inputs, None, registry)
    shares = run.latest.stages[0].samples[0].shares
    assert shares == {name: len(ids & seen.kept) / len(seen.kept) for name, ids in seen.own.items()}


def test_the_intersection_is_neither_operand(ready, inputs, registry):
    _, (seen,) = watch(ready, ts.Recipe.load("script"), inputs, None, registry)
    graph, query = seen.own.values()
    assert len({seen.kept, graph, query}) == 3
    assert graph & query <= seen.kept
    assert 0 < jaccard(seen.kept, graph) < 1
    assert 0 < jaccard(seen.kept, query) < 1


def test_jaccard():
    assert jaccard(frozenset({1, 2}), frozenset({2, 3})) == 1 / 3
    assert jaccard(frozenset(), frozenset()) == 1.0
