"""A selection that large groups make slow, such as `script` on a long video, says so in the ledger."""

import pytest
import torch

import tokensieve as ts
from tokensieve.engine import stage_selection

from .models import ONE, batch, prompts, shared


def asked(recipe):
    model = shared("sdpa")
    with torch.no_grad(), ts.prune(model, recipe) as run:
        model(**batch(prompts(model, ONE)))
    return run.latest.stages[0].notes


@pytest.mark.parametrize("per", ["image", "frame"])
def test_a_slow_selection_of_a_large_group_is_noted(monkeypatch, per):
    recipe = ts.Recipe.load("script").replace(keep=4)
    recipe = recipe.replace(stages=(recipe.stages[0].model_copy(update={"per": per}),))
    clock = iter(range(0, 100, 3))
    monkeypatch.setattr(stage_selection, "_now", lambda pool: next(clock))
    assert not [note for note in asked(recipe) if "took" in note]
    monkeypatch.setattr(stage_selection, "LARGE_GROUP", 16)
    [said] = [note for note in asked(recipe) if "took" in note]
    assert said.startswith("selection took 3.0 s: groups of up to 16 tokens, read to place ")
    assert ("per: frame" in said) == (per == "image")
    monkeypatch.setattr(stage_selection, "_now", lambda pool: 5.0)
    assert not [note for note in asked(recipe) if "took" in note]
