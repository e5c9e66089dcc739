import tokensieve as ts


def test_the_recipe_is_found_and_nothing_is_wrong_with_it():
    recipe = ts.Recipe.load("agree-earliest")
    assert [finding for finding in ts.review(recipe) if finding.level != "note"] == []
