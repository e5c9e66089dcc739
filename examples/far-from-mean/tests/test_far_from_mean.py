import tokensieve as ts
from tokensieve.testing import StrategyConformance

from far_from_mean import FarFromMean


class TestFarFromMean(StrategyConformance):
    strategy = FarFromMean


def test_the_recipe_is_found_and_nothing_is_wrong_with_it():
    recipe = ts.Recipe.load("far_from_mean")
    assert [finding for finding in ts.review(recipe) if finding.level != "note"] == []
