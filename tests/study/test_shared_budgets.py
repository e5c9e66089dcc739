"""Budgets that samples share in a study: met over every batch, controlled alike, and compared at equal totals only."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import tokensieve as ts
from tokensieve.checkpoints.loaded_model import quiet
from tokensieve.checkpoints.loading import load
from tokensieve.errors import BudgetError, StudyError
from tokensieve.study.analysis.collect import collect
from tokensieve.study.analysis.completeness import check_completeness
from tokensieve.study.analysis.matching import matched_controls
from tokensieve.study.planning.controls import recipe_of_cell
from tokensieve.study.planning.plan import plan_study
from tokensieve.study.report.provenance import missing_results
from tokensieve.study.running.runner import Runner
from tokensieve.study.sampling import sample_key
from tokensieve.study.spec.budget import Budget

from . import fake, synthetic

SHARED = "{name: shared, select: gsp, demand: diversity}"
PLAIN = "{name: plain, select: gsp}"


def test_controls_share_as_the_method_does_and_the_plan_says_over_what(planned):
    plan = planned(f"[{PLAIN}, {SHARED}]", "[9]", "[{use: colours, questions: 6}]", more="seeds: [1]")
    recipes = {job.cell.method: job.cell.recipe["stages"][0] for job in plan.jobs if job.cell.recipe}
    names = [name for name in recipes if name.endswith("shared over a batch by diversity")]
    assert {name.split()[0] for name in names} == {"random", "uniform", "pool", "oracle", "anti_oracle"}
    for name in [*names, "shared", "inverted shared"]:
        assert (recipes[name]["keep"], recipes[name]["demand"]) == ("mean 9", "diversity")
    assert recipes["plain"]["keep"] == recipes["random"]["keep"] == 9
    shapes = {job.cell.method: job.cell.shape for job in plan.jobs}
    assert shapes["shared"] == shapes["random shared over a batch by diversity"] != shapes["plain"] == shapes["random"]
    assert [note for note in plan.notes if "is met over every 4 samples of task 'colours'" in note]
    last = planned(f"[{SHARED}]", "[9]", "[{use: colours, questions: 5}]")
    assert any("and the last sample has it by itself" in note for note in last.notes)
    over = planned(f"[{SHARED.replace('}', ', over: sample}')}]", "[9]", more="")
    assert not any("is met over" in note for note in over.notes)


def test_batches_of_one_are_refused_where_nothing_would_be_shared(written, registry):
    study = written(f"[{SHARED}]", "[9]")
    alone = study.model_copy(update={"batch": 1})
    said = r"recipe 'shared' has keep: mean 9 at decoder\.0.*batch is 1: every sample would have the budget by itself"
    with pytest.raises(StudyError, match=said):
        plan_study(alone, registry)
    with pytest.raises(StudyError, match="batch is 1"):
        plan_study(
            written("[{name: only, select: uniform, demand: diversity}]").model_copy(update={"batch": 1}), registry
        )
    # Where only pictures of a prompt share, batches do not matter.
    within = written(f"[{SHARED.replace('}', ', over: sample}')}]", "[9]").model_copy(update={"batch": 1})
    assert any(job.cell.method == "shared" for job in plan_study(within, registry).jobs)
    talks = "{use: world_turns, pictures: 2, per_picture: 3}"
    with pytest.raises(StudyError, match="the talks of task 'world_turns' are answered one at a time"):
        plan_study(written(f"[{SHARED}]", "[9]", f"[{talks}]"), registry)


@pytest.mark.parametrize("value", ["mean 9", ["mean 1/9", 4]])
def test_a_studys_own_budget_is_no_mean(value):
    with pytest.raises(BudgetError, match="a recipe whose stage has a demand meets it in the mean"):
        Budget.of(value)


def test_rows_are_those_of_the_batches_and_each_batch_keeps_exactly_the_mean(planned, registry, checkpoint):
    plan = planned(f"[{PLAIN}, {SHARED}]", "[1/4]", "[{use: colours, questions: 7, pictures: 7}]", more="seeds: [1]")
    runner = Runner(registry)
    wanted = ("shared", "plain", "random shared over a batch by diversity")
    done = {job.cell.method: runner.run(job) for job in plan.jobs if job.cell.method in wanted}
    cell, rows = done["shared"]
    assert "keep mean 1/4 is met over each batch, shared by 'diversity'" in cell.notes
    kept = [len(row.kept[0]) for row in rows]
    assert [sum(kept[:4]), sum(kept[4:])] == [36, 27]
    assert len(set(kept)) > 1
    assert [len(row.kept[0]) for row in done[wanted[2]][1]] == kept
    assert {len(row.kept[0]) for row in done["plain"][1]} == {9}
    # By hand, batch by batch.
    ready, samples = load(checkpoint, registry, (), "cpu"), fake.Colours(questions=7, pictures=7).samples()
    recipe = recipe_of_cell(cell, registry)
    for start in (0, 4):
        part = samples[start : start + 4]
        pictures = [fake.Colours(pictures=7).picture(sample) for sample in part]
        inputs = ready.processor_inputs(pictures, [sample.question for sample in part])
        keys = [sample_key(sample.id) for sample in part]
        with torch.no_grad(), quiet(), ts.prune(ready.model, recipe, processor=ready.processor, keys=keys) as run:
            ready.model(**ready.on_device(inputs))
        assert [tuple(ids.tolist()) for ids in run.kept("decoder.0")] == [
            row.kept[0] for row in rows[start : start + 4]
        ]


def test_over_a_task_batches_do_not_matter_and_all_samples_meet_the_mean(written, registry, checkpoint):
    over = SHARED.replace("}", ", over: task}")
    tasks = "[{use: colours, questions: 7, pictures: 5}]"
    wanted = ("shared", "random shared over a task by diversity", "oracle shared over a task by diversity")
    done = {}
    for size in (4, 1):
        study = written(f"[{over}]", "[1/4]", tasks, more="seeds: [1]").model_copy(update={"batch": size})
        plan = plan_study(study, registry)
        assert any("is met over all 7 samples of task 'colours'" in note for note in plan.notes)
        runner = Runner(registry)
        found = {job.cell.method: runner.run(job) for job in plan.jobs if job.cell.method in wanted}
        done[size] = {name: [row.kept for row in rows] for name, (_, rows) in found.items()}
        assert "keep mean 1/4 is met over all samples of the task, shared by 'diversity'" in found["shared"][0].notes
    assert done[4] == done[1]
    kept = [len(ids) for (ids,) in done[4]["shared"]]
    for name in wanted[1:]:
        assert [len(ids) for (ids,) in done[4][name]] == kept
    # By hand: what each picture needs, and places one by one to the largest claim.
    ready, task = load(checkpoint, registry, (), "cpu"), fake.Colours(questions=7, pictures=5)
    demands, keys = [], [sample_key(sample.id) for sample in task.samples()]
    for sample in task.samples():
        inputs = ready.inputs(task.picture(sample), sample.question)
        with torch.no_grad():
            x = ready.model.model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output[0].double()
        unit = x / x.norm(dim=1, keepdim=True)
        cosines = unit @ unit.T
        demands.append(float((1 - cosines)[~torch.eye(36, dtype=torch.bool)].mean()))
    assert sum(kept) == 7 * 9
    seats = [1] * 7
    while sum(seats) < 7 * 9:
        claims = {i: (float(f"{demands[i]:.5e}") / (2 * seats[i] + 1), -keys[i]) for i in range(7)}
        seats[max(claims, key=claims.get)] += 1
    assert kept == seats
    assert len(set(kept)) > 1


def test_talks_share_over_a_task(written, registry):
    study = written(
        f"[{SHARED.replace('}', ', over: task}')}]",
        "[1/9]",
        "[{use: world_turns, pictures: 3, per_picture: 2}]",
        models="[world-llava]",
    )
    [job] = [job for job in plan_study(study, registry).jobs if job.cell.method == "shared"]
    _, rows = Runner(registry).run(job)
    kept = [len(row.kept[0]) for row in rows]
    assert sum(kept) == 16 * len(rows)
    assert len(set(kept)) > 1


# Comparing


def _with_mean(extra):
    """A made-up study in which `gsp` shares 16 tokens a sample between samples, and `extra` more in all."""
    made = synthetic.study(models=("small-a",), methods=("gsp", "qcsp"), keeps=("1/9",))
    changed = synthetic.Made()
    for cell, rows in made.content.values():
        if cell.method == "gsp" and cell.role == "method":
            stages = [{**cell.recipe["stages"][0], "keep": f"mean {cell.keep}", "demand": "diversity"}]
            cell = replace(cell, recipe={**cell.recipe, "stages": stages})
            # Every second sample has four tokens that the one before it has not.
            moved = [16 + (4 if place % 2 else -4) for place in range(len(rows))]
            moved[-1] += 16 * len(rows) - sum(moved) + extra
            rows = [replace(row, per_layer=(kept,) * synthetic.LAYERS) for row, kept in zip(rows, moved, strict=True)]
        changed.add(cell, rows)
    return changed


def test_an_arm_that_shares_is_ranked_with_those_of_exactly_its_total():
    [comparison] = collect(_with_mean(0))
    arm = comparison.find_arm("gsp", "1/9")
    assert arm.is_mean
    assert np.ptp(arm.per_layer) >= 8
    block = comparison.block_of(arm)
    assert {one.method for one in block.arms} >= {"gsp", "qcsp", "random", "uniform"}
    assert comparison.unmatched == ()
    assert {one.role for one in matched_controls(comparison, arm) if not one.mixed} >= {"random", "uniform"}


@pytest.mark.parametrize("extra", [1, -1, 3])
def test_one_token_more_over_all_samples_and_it_is_ranked_with_none(extra):
    made = _with_mean(extra)
    [comparison] = collect(made)
    arm, other = comparison.find_arm("gsp", "1/9"), comparison.find_arm("qcsp", "1/9")
    # Far nearer than what is called alike where every sample has the same budget.
    assert abs(arm.tokens - other.tokens) < 1e-2 * other.tokens
    assert [one.method for one in comparison.block_of(arm).arms] == ["gsp"]
    assert "qcsp" in {one.method for one in comparison.block_of(other).arms}
    assert not arm.costs_as(other)
    assert all(one.mixed for one in matched_controls(comparison, arm))
    [said] = comparison.unmatched
    assert "gsp at 1/9: its samples share a budget, and no arm of it that shares none has exactly as many" in said
    listed = missing_results(made.plan(), check_completeness(made), [comparison])
    assert said in [one.reason for one in listed]


def test_two_arms_that_share_are_alike_only_if_they_are_equal():
    [comparison] = collect(_with_mean(0))
    arm = comparison.find_arm("gsp", "1/9")
    moved = replace(arm, cells=tuple(replace(cell, tokens=cell.tokens * (1 + 1e-6)) for cell in arm.cells))
    assert arm.costs_as(arm)
    assert not arm.costs_as(moved)
    assert not moved.costs_as(arm)
