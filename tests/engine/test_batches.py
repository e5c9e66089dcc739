"""Dealing pictures to prompts, against a loop over places."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tokensieve as ts
from tokensieve.engine.batches import assign_grid
from tokensieve.errors import RefusedError
from tokensieve.recipes.review import find_errors

ROWS = st.lists(st.lists(st.integers(1, 4), max_size=3), min_size=1, max_size=5)


def laid(rows, between=1):
    """Prompts with a word before every picture of so many tokens, and what the pictures' layouts are."""
    lines = [[kind for size in row for kind in [-1] * between + [0] * size] + [-1] for row in rows]
    width = max(map(len, lines))
    kinds = np.array([[-1] * (width - len(line)) + line for line in lines], dtype=np.int8)
    sizes = [size for row in rows for size in row]
    return kinds, [torch.arange(4 * size).reshape(size, 4) + 100 * i for i, size in enumerate(sizes)]


@given(ROWS, st.integers(0, 2), st.integers(0, 2))
def test_pictures_go_to_prompts_in_order(rows, between, copies):
    kinds, layouts = laid(rows, between)
    # Beams bring the layouts again.
    grid, dealt = assign_grid([layouts + layouts * copies], kinds, tiled=False)
    number, expected = 0, []
    for row in rows:
        expected.append([])
        for image, size in enumerate(row):
            expected[-1] += [[image, *place] for place in layouts[number][:size].tolist()]
            number += 1
    width = max(map(len, expected))
    assert grid.shape == (len(rows), width, 5)
    assert grid.tolist() == [own + [[0] * 5] * (width - len(own)) for own in expected]
    assert dealt == [[i for i, row in enumerate(rows) for _ in row]]


def test_a_prompt_that_ends_inside_a_picture_is_refused():
    kinds, layouts = laid([[3], [2]])
    with pytest.raises(RefusedError, match="prompt 0 has 3 placeholders"):
        assign_grid([list(reversed(layouts))], kinds, tiled=False)
    with pytest.raises(RefusedError, match="no whole number of images"):
        assign_grid([layouts[:1]], kinds, tiled=False)


@pytest.mark.parametrize("name", ["llava", "gemma3", "qwen3_vl", "timm_vit"])
def test_what_stops_a_recipe_is_what_a_review_calls_an_error(name):
    registry = ts.default_registry()
    kind = registry.adapters[name]
    adapter = kind(kind.tiny())
    stopped = 0
    for recipe in (ts.Recipe.load(one, registry) for one in registry.recipes):
        found = find_errors(recipe, adapter)
        assert found == [finding for finding in ts.review(recipe, adapter) if finding.level == "error"]
        stopped += bool(found)
    assert stopped
