"""The grammar: what it draws can be read, is what `check` accepts or is refused, and shipped recipes are part of it."""

import random

import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st

import tokensieve as ts
from tokensieve.checkpoints.loading import load_adapter
from tokensieve.errors import RefusedError
from tokensieve.recipes.review import find_errors
from tokensieve.search.grammar import Grammar, sites_of
from tokensieve.search.settings import composer_variants, strategy_values
from tokensieve.search.trial import Candidate, Measured, Trial
from tokensieve.sites import Site
from tokensieve.study.spec.budget import Budget

from .conftest import BUDGETS, REGISTRY, SITES, shipped


def genes_from(grammar, seed):
    draw = random.Random(seed)  # noqa: S311 - no secrets
    return {name: draw.choice(choices) for name, choices in grammar.genes.items()}


@pytest.fixture(scope="module")
def adapter():
    return load_adapter(REGISTRY.checkpoint("world-llava").folder, REGISTRY)


@settings(max_examples=examples(600), deadline=None)
@given(seed=st.integers(0, 2**32))
def test_what_is_drawn_is_read_back_and_reviewed_or_refused(grammar, adapter, seed):
    genes = genes_from(grammar, seed)
    try:
        candidate = grammar.candidate(genes)
    except ts.TokensieveError:
        # Any other error is a fault of the grammar.
        return
    read = ts.Recipe.loads(candidate.recipe.dump(), REGISTRY)
    assert read == candidate.recipe
    assert read.hash() == candidate.hash
    assert {finding.level for finding in find_errors(read, adapter)} <= {"error"}
    assert [stage.at for stage in read.stages] == sorted({stage.at for stage in read.stages})
    # Genes of a recipe that the grammar made mean that recipe, whatever the genes without effect are.
    again = grammar.genes_of(candidate)
    assert again is not None
    assert grammar.candidate(again).hash == candidate.hash


@pytest.mark.parametrize(
    "formula",
    [
        "(norm ^ gsp[1/2]) & qcsp & divprune[1/4]",
        "gsp & qcsp & (divprune | norm[1/2])",
        "gsp | qcsp | divprune | norm",
    ],
)
def test_operands_of_what_is_associative_are_read_in_any_two_parts(grammar, formula):
    """Left to right, each of these would be deeper than the grammar draws."""
    recipe = ts.Recipe.load(formula, REGISTRY, keep="1/9")
    candidate = Candidate.of(recipe, Budget.of("1/9"))
    genes = grammar.genes_of(candidate)
    assert genes is not None
    assert grammar.candidate(genes).hash == candidate.hash


def test_a_few_are_reviewed_as_a_whole(grammar, adapter):
    levels = set()
    for seed in range(12):
        try:
            recipe = grammar.candidate(genes_from(grammar, seed)).recipe
        except ts.TokensieveError:
            continue
        levels |= {finding.level for finding in ts.review(recipe, adapter)} or {"fine"}
    assert levels >= {"fine"}


def test_genes_without_effect_change_nothing(grammar):
    genes = genes_from(grammar, 3) | {"cuts": "one", "f is": "strategy", "f as": "plain"}
    other = genes | {"fl use": "norm", "fl set": 0, "frr as": "plain", "first keep": "1/2"}
    assert grammar.candidate(genes).hash == grammar.candidate(other).hash


def test_shipped_recipes_are_in_the_grammar_unless_they_have_what_it_lacks(grammar):
    outside = {name.split(" at ")[0] for name, one in shipped().items() if grammar.genes_of(one) is None}
    # A mean, a tie-breaker, three operands of at_least, random draws, sites that are not searched, more than two cuts.
    assert outside == {
        "divprune-shared",
        "divprune-stream",
        "feather",
        "holitom",
        "pixelprune",
        "prumerge-plus",
        "prunevid",
        "pyramiddrop",
        "random",
        "script-fill",
        "script-head",
        "sparsevlm",
        "sparsevlm-v2",
        "two-of-three",
        "vscan",
    }


def test_every_strategy_is_drawn_but_those_that_draw_at_random_or_need_a_file(grammar):
    assert set(REGISTRY.strategies) - set(grammar.genes["f use"]) == {"random", "replay"}


def test_a_strategy_of_a_plugin_is_drawn_with_its_settings():
    class Middle(ts.Scorer):
        """Keep what is in the middle."""

        name = "middle"
        sharp: bool = False
        power: float = 3.0

        def score(self, tokens):
            return tokens.features.norm(dim=-1)

    registry = ts.default_registry()
    registry.add_strategy(Middle)
    own = Grammar(registry, SITES, BUDGETS)
    assert "middle" in own.genes["f use"]
    drawn = {
        own.candidate(genes_from(own, seed) | {"cuts": "one", "f is": "strategy", "f as": "plain", "f use": "middle"})
        .recipe.stages[0]
        .select
        for seed in range(20)
    }
    assert drawn == {Middle(), Middle(sharp=True)}


def test_values_of_settings_are_those_of_types_ranges_examples_and_recipes():
    gsp, cdpp, qcsp = (REGISTRY.strategy(name) for name in ("gsp", "cdpp", "qcsp"))
    assert strategy_values(qcsp) == {"cosine": (True, False), "orthogonal": (True, False)}
    # Between 0 and 0.99, or none.
    assert strategy_values(cdpp) == {"theta": (None, 0.5, 0.0, 0.2475, 0.495, 0.7425, 0.99)}
    assert strategy_values(gsp, [gsp(quantile=0.9)])["quantile"] == (0.5, 0.8, 0.9, 0.0, 0.25, 0.75, 1.0)
    # Of an open range, the default times a quarter to four; what is not allowed is left out.
    assert strategy_values(gsp)["low_degree"] == (1, 4, 2)
    assert strategy_values(REGISTRY.strategy("random")) is None
    assert strategy_values(REGISTRY.strategy("replay")) is None


def test_settings_of_composers_fit_the_operands():
    two = (REGISTRY.strategy("norm")(), REGISTRY.strategy("uniform")())
    assert list(composer_variants(REGISTRY.composer("union"), two)) == [{}]
    assert list(composer_variants(REGISTRY.composer("complement"), two)) == []
    assert [one["j"] for one in composer_variants(REGISTRY.composer("at_least"), two)] == [1, 2]
    assert len(list(composer_variants(REGISTRY.composer("weighted"), two))) == 1


def test_sites_are_first_layers_quarters_and_those_of_recipes(adapter):
    recipes = [one.recipe for one in shipped().values()]
    assert sites_of([adapter], recipes) == tuple(Site("decoder", block) for block in (0, 1, 2, 3, 4))
    assert sites_of([None], []) == (Site("decoder", 0),)


def test_a_grammar_needs_strategies_sites_and_budgets():
    with pytest.raises(RefusedError, match="a search takes strategies, sites and budgets"):
        Grammar(ts.Registry(), SITES, BUDGETS)
    with pytest.raises(RefusedError, match="sites and budgets; there are"):
        Grammar(REGISTRY, SITES, ())


def test_a_trial_is_read_back_from_its_line():
    [candidate] = [one for name, one in shipped().items() if name == "script at 16"]
    trial = Trial("trial 3", "measured", candidate, Measured(0.5, 0.1))
    assert Trial.from_line(trial.to_line(), REGISTRY) == trial
    refused = Trial("trial 4", "refused", reason="no")
    assert Trial.from_line(refused.to_line(), REGISTRY) == refused
    for line in ("", "[]", '{"name": "x"}', '{"name": "x", "state": "measured", "recipe": {"stages": 3}}'):
        with pytest.raises(ts.errors.StudyError, match="no trial of a search"):
            Trial.from_line(line, REGISTRY)


def test_a_candidate_has_the_budget_in_its_recipe():
    recipe = ts.Recipe.load("divprune-fastv", REGISTRY)
    candidate = Candidate.of(recipe, Budget.of(9))
    assert str(candidate.recipe.stages[-1].keep) == "9"
    assert candidate.base == recipe
    assert candidate.formula == "decoder.2: (diverse & attention)"
