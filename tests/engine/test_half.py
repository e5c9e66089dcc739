"""Models in half precision: exact budgets, and no more rounding than the model has by itself."""

import pytest
import torch

import tokensieve as ts
from tokensieve_strategies import Norm

from .models import RAGGED, batch, fitted, prompts, shared, shipped


@pytest.mark.covering(1)
@pytest.mark.parametrize("variant", ["bfloat16", "float16", "bfloat16 eager"])
@pytest.mark.parametrize("name", shipped())
@torch.no_grad()
def test_shipped_recipes_are_exact(variant, name):
    model = shared(variant)
    rows = prompts(model, RAGGED)
    recipe = fitted(name)
    keeps = [5 + later for later in reversed(range(len(recipe.stages)))]
    with ts.prune(model, recipe, keep=keeps) as run:
        logits = model(**batch(rows)).logits
    assert logits.dtype == model.dtype
    assert logits.isfinite().all()
    for keep, stage in zip(keeps, run.latest.stages, strict=True):
        for row, sample in zip(rows, stage.samples, strict=True):
            assert len(sample.kept) == len(set(sample.kept.tolist())) == keep * row.images


PLANS = {
    "0": [("decoder.0", 5, "drop")],
    "0 merge": [("decoder.0", 5, "merge")],
    "2": [("decoder.2", 5, "drop")],
    "2 merge": [("decoder.2", 5, "merge")],
    "0+2": [("decoder.0", 9, "drop"), ("decoder.2", 4, "drop")],
}


@pytest.mark.covering(1)
@pytest.mark.parametrize("variant", ["bfloat16", "float16", "bfloat16 eager"])
@pytest.mark.parametrize("plan", PLANS)
@torch.no_grad()
def test_half_is_as_near_to_single_precision_as_unpruned(variant, plan, tmp_path):
    half, rows = shared(variant), prompts(shared("sdpa"), RAGGED)
    # The same weights, rounded as the half-precision model has them, in float32.
    single = type(half)(half.config)
    single.load_state_dict({name: value.float() for name, value in half.state_dict().items()})
    single.eval()
    stages = tuple(ts.Stage(at=at, select=Norm(), keep=keep, rest=rest) for at, keep, rest in PLANS[plan])
    with ts.prune(half, ts.Recipe(stages=stages)) as run:
        pruned = half(**in_type(rows, half), logits_to_keep=2).logits
    run.save(tmp_path / "run.json")
    # The half-precision choice, so that what differs is arithmetic alone.
    again = tuple(
        stage.model_copy(update={"select": ts.replay(tmp_path / "run.json", at=stage.at)}) for stage in stages
    )
    with ts.prune(single, ts.Recipe(stages=again)):
        exact = single(**in_type(rows, single), logits_to_keep=2).logits
    off = (pruned.float() - exact).abs().max()
    by_itself = (half(**in_type(rows, half)).logits.float() - single(**in_type(rows, single)).logits).abs().max()
    # Which kept token a dropped one joins can turn on a rounding, so merging is held to the second bound alone.
    assert off < 2 * by_itself or "merge" in plan
    assert off < 0.05 * exact.abs().max()


def in_type(rows, model):
    inputs = batch(rows)
    return inputs | {"pixel_values": inputs["pixel_values"].to(model.dtype)}
