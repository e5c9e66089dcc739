import tokensieve as ts
from tokensieve.testing import ComposerConformance

from majority import Majority


class TestMajority(ComposerConformance):
    composer = Majority


def test_the_recipe_is_found_and_nothing_is_wrong_with_it():
    recipe = ts.Recipe.load("majority")
    assert [finding for finding in ts.review(recipe) if finding.level != "note"] == []
