import tokensieve as ts
from tokensieve.testing import StrategyConformance

from feature_norm import FeatureNorm


class TestFeatureNorm(StrategyConformance):
    strategy = FeatureNorm


def test_the_recipe_is_found_and_nothing_is_wrong_with_it():
    recipe = ts.Recipe.load("feature_norm")
    assert [finding for finding in ts.review(recipe) if finding.level != "note"] == []
