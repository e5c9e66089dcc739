"""Budgets that are a mean: met to the token over a sample or a batch, and shared by what each picture needs."""

import json
from fractions import Fraction

import pytest
import torch
from rich.console import Console

import tokensieve as ts
from tokensieve.errors import (
    BudgetError,
    FormulaError,
    MissingEvidenceError,
    RecipeError,
    RefusedError,
    ScoreError,
)
from tokensieve.testing.samples import sample
from tokensieve_strategies import GSP, Diversity, DivPrune, Norm, ToMe

from .models import IMAGE, RAGGED, TEXT, batch, generate, patches, prompts, shared

# Rows of one, none, two and three pictures.
MIXED = [*RAGGED, [2, IMAGE, IMAGE, 1, IMAGE, 2]]
SINGLE = [[2, IMAGE, 5], [7, IMAGE, 2], [1, IMAGE, 9]]


class Loudest(ts.Appraiser):
    """Needs what the norms of its tokens sum to, by a power that tells pictures apart."""

    name = "loudest"
    power: float = 4.0

    def score(self, tokens):
        return tokens.features.double().norm(dim=-1)

    def demand(self, tokens):
        mean = self.score(tokens).where(tokens.valid, 0.0).sum(dim=1) / tokens.universe.counts.clamp(min=1)
        return mean**self.power


DIVERSE, LOUDEST = DivPrune(), Loudest()


def recipe(select=DIVERSE, keep="mean 1/3", demand=LOUDEST, over="batch", at="decoder.0", **stage):
    return ts.Recipe.of(select, keep, at=at, demand=demand, over=over, **stage)


def louder(model, rows):
    """The same rows with pictures of different contrast."""
    made, turn = [], 0
    for row in rows:
        factors = torch.tensor([0.2 + 0.9 * (turn + i) for i in range(row.images)]).reshape(-1, 1, 1, 1)
        turn += row.images
        made.append(type(row)(row.words, (row.pixels * factors).to(row.pixels.dtype)))
    return made


def by_picture(model, kept):
    """How many ids of each picture a row kept."""
    n = patches(model)
    return [
        [int((ids // n == image).sum()) for image in range(-(-int(ids.max() + 1) // n))] if len(ids) else []
        for ids in kept
    ]


@torch.no_grad()
def norms(model, rows):
    """The mean norm of the projected tokens of every picture of each row, from the model itself."""
    found = []
    for row in rows:
        if not row.images:
            found.append([])
            continue
        features = model.model.get_image_features(pixel_values=row.pixels).pooler_output
        found.append([float(one.double().norm(dim=-1).mean()) for one in features])
    return found


def dealt(places, sizes, demands):
    """Places one by one to the group with the largest claim; each has one before."""
    seats = [1] * len(sizes)
    while sum(seats) < places:
        claims = {i: demands[i] / (2 * seats[i] + 1) for i in range(len(sizes)) if seats[i] < sizes[i]}
        seats[max(claims, key=claims.get)] += 1
    return seats


@pytest.mark.parametrize("over", ["batch", "sample"])
@pytest.mark.parametrize("keep", ["mean 1/3", "mean 2", "mean 9", "mean 100%"])
@torch.no_grad()
def test_pictures_share_exactly_what_they_would_keep_each(over, keep):
    model = shared("sdpa")
    rows, n = louder(model, prompts(model, MIXED)), patches(model)
    each = {"mean 1/3": n // 3, "mean 2": 2, "mean 9": 9, "mean 100%": n}[keep]
    with ts.prune(model, recipe(keep=keep, over=over)) as run:
        generate(model, rows, steps=2)
    found = by_picture(model, run.kept("decoder.0"))
    found = [own + [0] * (row.images - len(own)) for own, row in zip(found, rows, strict=True)]
    demands = [[value**4 for value in own] for own in norms(model, rows)]
    if over == "batch":
        flat = [demand for own in demands for demand in own]
        expected = dealt(each * len(flat), [n] * len(flat), flat)
        assert [k for own in found for k in own] == expected
    else:
        expected = [dealt(each * len(own), [n] * len(own), own) for own in demands]
        assert found == expected
        assert [len(ids) for ids in run.kept("decoder.0")] == [each * row.images for row in rows]
    assert sum(map(sum, found)) == each * sum(row.images for row in rows)
    if each not in (1, n):
        assert len({k for own in found for k in own}) > 2


@pytest.mark.parametrize("select", [DivPrune(), Norm() & GSP(), ToMe()], ids=str)
@torch.no_grad()
def test_a_picture_keeps_what_it_keeps_alone_with_as_many(select):
    model = shared("sdpa")
    rows = louder(model, prompts(model, SINGLE))
    with ts.prune(model, recipe(select, "mean 5")) as run:
        words, logits, _ = generate(model, rows)
    kept = run.kept("decoder.0")
    assert sum(map(len, kept)) == 15
    assert len({len(ids) for ids in kept}) > 1
    for number, row in enumerate(rows):
        with ts.prune(model, ts.Recipe.of(select, len(kept[number]))) as alone:
            own, own_logits, _ = generate(model, [row])
        assert torch.equal(alone.kept("decoder.0")[0], kept[number])
        assert torch.equal(own[0], words[number])
        assert torch.allclose(own_logits[0], logits[number], atol=1e-4)


@pytest.mark.parametrize("rest", ["drop", "merge"])
@pytest.mark.parametrize("at", ["decoder.0", "decoder.2"])
@torch.no_grad()
def test_over_a_sample_nothing_depends_on_the_batch(at, rest):
    model = shared("sdpa")
    rows = louder(model, prompts(model, MIXED))
    cut = recipe(over="sample", at=at, rest=rest)
    with ts.prune(model, cut) as run:
        words, _, _ = generate(model, rows)
    kept = run.kept(at)
    for number, row in enumerate(rows):
        with ts.prune(model, cut) as alone:
            own, _, _ = generate(model, [row])
        assert torch.equal(alone.kept(at)[0], kept[number])
        assert torch.equal(own[0], words[number])


@torch.no_grad()
def test_over_a_batch_the_order_of_its_samples_changes_nothing():
    model = shared("sdpa")
    rows, keys = louder(model, prompts(model, MIXED)), [11, 5, 8, 2]
    with ts.prune(model, recipe(), keys=keys) as run:
        generate(model, rows, steps=1)
    kept = dict(zip(keys, run.kept("decoder.0"), strict=True))
    for order in ([3, 1, 0, 2], [2, 3, 1, 0]):
        with ts.prune(model, recipe(), keys=[keys[i] for i in order]) as run:
            generate(model, [rows[i] for i in order], steps=1)
        assert all(torch.equal(ids, kept[keys[i]]) for i, ids in zip(order, run.kept("decoder.0"), strict=True))


@torch.no_grad()
def test_pictures_that_tie_are_served_by_their_sample_keys():
    model = shared("sdpa")
    same, other = prompts(model, SINGLE[:2])
    (loud,) = louder(model, [other, other])[1:]
    uneven = 0
    for keep in range(2, 8):
        counts = {}
        for keys in ([9, 4, 1], [4, 9, 1]):
            with ts.prune(model, recipe(keep=f"mean {keep}", demand=Loudest(power=20.0)), keys=keys) as run:
                generate(model, [same, same, loud], steps=1)
            counts[tuple(keys)] = dict(zip(keys, map(len, run.kept("decoder.0")), strict=True))
        assert counts[9, 4, 1] == counts[4, 9, 1]
        found = counts[9, 4, 1]
        assert found[4] - found[9] in (0, 1)
        uneven += found[4] != found[9]
    assert uneven


@pytest.mark.parametrize("layouts", [TEXT, [[3, IMAGE, 4]]], ids=["text", "one picture"])
@torch.no_grad()
def test_one_picture_alone_has_the_budget_by_itself(layouts):
    model = shared("sdpa")
    rows = prompts(model, layouts)
    found = []
    for one in (recipe(), ts.Recipe.of(DivPrune(), "1/3")):
        with ts.prune(model, one) as run:
            words, logits, _ = generate(model, rows)
        found.append((run.kept("decoder.0")[0], words, logits))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@torch.no_grad()
def test_the_ledger_says_what_each_had_and_over_what_it_was_met():
    model = shared("sdpa")
    rows = louder(model, prompts(model, MIXED))
    named = ts.Recipe(
        strategies={"need": Diversity()},
        stages=(ts.Stage(at="decoder.0", select=DivPrune(), keep="mean 4", demand=Diversity()),),
    )
    with ts.prune(model, named) as run:
        model(**batch(rows))
    found = run.latest.stages[0].shared
    kept = run.kept("decoder.0")
    assert (found.keep, found.over, found.demand) == ("mean 4", "batch", "need")
    assert [sum(own) for own in found.budgets] == [len(ids) for ids in kept]
    assert [len(own) for own in found.demands] == [row.images for row in rows]
    assert (found.total, found.groups) == (24, 6)
    said = json.loads(json.dumps(run.to_dict()))["stages"][0]["shared"]
    own = {"sizes": [16] * 3, "budgets": list(found.budgets[3]), "demands": list(found.demands[3])}
    assert said["samples"][3] == own
    assert said["total"] == sum(len(ids) for ids in kept) == 24
    console = Console(record=True, width=100)
    run.report(console)
    text = " ".join(console.export_text().split())
    assert "keep mean 4 is met over each batch, shared by 'need'" in text
    assert "decoder.0: 24 tokens of 6 groups together" in text
    with ts.prune(model, named.replace(keep="1/2")) as run:
        model(**batch(rows[:1]))
    assert "one group alone has the budget by itself" in " ".join(run.to_dict()["stages"][0]["notes"])
    with ts.prune(model, DivPrune(), keep=4) as run:
        model(**batch(rows))
    assert run.latest.stages[0].shared is None
    assert "shared" not in run.to_dict()["stages"][0]


class Broken(Loudest):
    """Gives whatever it is told to."""

    name = "broken"
    gives: str = "nan"

    def demand(self, tokens):
        found = super().demand(tokens)
        return {"nan": found * torch.nan, "negative": -found, "wide": self.score(tokens), "none": None}[self.gives]


@pytest.mark.parametrize(
    ("gives", "said"),
    [
        ("nan", r"'broken' returned the demands \[nan, .* finite number and not negative"),
        ("negative", r"'broken' returned the demands \[-"),
        ("wide", r"'broken' returned \[2, \d+\]; demand returns one number for each row, \[2\]"),
        ("none", r"'broken' returned NoneType; demand returns"),
    ],
)
@torch.no_grad()
def test_a_demand_that_is_no_number_is_refused_by_name(gives, said):
    model = shared("sdpa")
    rows = prompts(model, [[1, IMAGE, IMAGE, 3]])
    with pytest.raises(ScoreError, match=said), ts.prune(model, recipe(demand=Broken(gives=gives))):
        model(**batch(rows))


def test_evidence_that_a_demand_lacks_is_said_before_anything_runs():
    class ByAttention(Loudest):
        name = "by_attention"

        @property
        def needs(self):
            return frozenset({ts.Evidence.DECODER_ATTENTION})

    with pytest.raises(MissingEvidenceError, match="'by_attention' needs decoder_attention"):
        ts.prune(shared("sdpa"), recipe(demand=ByAttention())).__enter__()


# Over a task


@torch.no_grad()
def test_over_a_task_every_sample_has_what_was_found_out_for_its_key():
    model = shared("sdpa")
    rows, keys = louder(model, prompts(model, MIXED)), [11, 5, 8, 2]
    cut = recipe(over="task")
    given = {8: (7, 2), 11: (1,), 2: (3, 16, 4)}
    for order in ([0, 1, 2, 3], [3, 0, 2]):
        with ts.prune(model, cut, keys=[keys[i] for i in order], budgets=given) as run:
            generate(model, [rows[i] for i in order], steps=2)
        found = by_picture(model, run.kept("decoder.0"))
        assert [tuple(own) for own in found] == [given.get(keys[i], ()) for i in order]
    assert run.latest.stages[0].shared.over == "task"
    assert "met over all samples of the task" in " ".join(run.latest.stages[0].notes)
    # Each keeps what it keeps alone with as many.
    with ts.prune(model, ts.Recipe.of(DIVERSE, 2)) as alone:
        generate(model, [rows[2]], steps=1)
    ours, theirs = run.kept("decoder.0")[2], alone.kept("decoder.0")[0]
    second = patches(model)
    assert ours[ours >= second].tolist() == theirs[theirs >= second].tolist()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({8: (7, 2)}, r"budgets= has None for the sample key 11, whose groups have \[16\] tokens"),
        ({11: (1, 2)}, r"budgets= has \(1, 2\) for the sample key 11"),
        ({11: (0,)}, r"budgets= has \(0,\)"),
        ({11: (17,)}, r"budgets= has \(17,\)"),
    ],
)
@torch.no_grad()
def test_budgets_that_are_not_those_of_a_samples_groups_are_refused(given, said):
    model = shared("sdpa")
    (row,) = prompts(model, SINGLE[:1])
    with pytest.raises(RefusedError, match=said), ts.prune(model, recipe(over="task"), keys=[11], budgets=given):
        model(**batch([row]))


def test_what_a_call_cannot_know_is_said_before_it():
    model = shared("sdpa")
    for options in ({}, {"budgets": {1: (2,)}}, {"keys": [1]}):
        with pytest.raises(RefusedError, match="a study finds out what all of them need first"):
            ts.prune(model, recipe(over="task"), **options)
    for wrong in ([3], {1: 3}, {1: "3"}, {"a": (3,)}, {1: (2.5,)}):
        with pytest.raises(RefusedError, match=r"budgets is .*; give a mapping from sample keys to lists of numbers"):
            ts.prune(model, recipe(over="task"), keys=[1], budgets=wrong)
    with pytest.raises(RefusedError, match="budgets= is for a recipe that meets a mean over a task"):
        ts.prune(model, recipe(), keys=[1], budgets={1: (2,)})
    stages = (ts.Stage(at="decoder.0", select=Norm(), keep=9), recipe(over="task", at="decoder.2").stages[0])
    with pytest.raises(RecipeError, match=r"so it is for the first stage, and decoder\.0 comes before it"):
        ts.Recipe(stages=stages)
    text = str(ts.explain(recipe(over="task"), model))
    assert "in the mean over all samples of a task" in " ".join(text.split())


# Recipes

MEAN = """
name: mean
strategies:
  need: {use: diversity}
stages:
  - at: decoder.0
    select: divprune
    keep: mean 1/9
    demand: need
    over: sample
"""


def test_a_recipe_is_read_written_and_known_by_its_mean():
    read = ts.Recipe.loads(MEAN)
    (stage,) = read.stages
    assert (stage.keep, stage.demand, stage.over) == (
        ts.Keep(fraction=Fraction(1, 9), mean=True),
        Diversity(),
        "sample",
    )
    assert ts.Recipe.loads(read.dump()) == read
    hashes = {
        ts.Recipe.loads(MEAN.replace(old, new)).hash()
        for old, new in [("", ""), ("sample", "batch"), ("use: diversity", "use: erank"), ("mean 1/9", "mean 1/8")]
    }
    assert len(hashes) == 4
    plain = ts.Recipe.of(DivPrune(), "1/9")
    assert plain.hash() not in hashes
    # A budget given from outside stays a mean.
    for keep in (64, "64", "mean 64"):
        assert read.replace(keep=keep).stages[0].keep == ts.Keep(count=64, mean=True)
    with pytest.raises(BudgetError, match="no demand to share a mean by"):
        plain.replace(keep="mean 1/9")
    with pytest.raises(BudgetError, match="a mean is of a count or a fraction"):
        read.replace(keep="auto")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "    demand: need\n    over: sample\n",
            "    by: need\n",
            "keep: mean 1/9 at decoder.0 is a mean.*say by what",
        ),
        ("keep: mean 1/9", "keep: 1/9", "keep: 1/9 is a budget of each group; write keep: mean 1/9"),
        ("keep: mean 1/9", "r: 4", "a mean is of a count or a fraction"),
        ("use: diversity", "use: norm", "demand: 'need' at decoder.0 does not say how much a group needs"),
        ("demand: need", "demand: need & norm", "demand: 'need & norm' at decoder.0 does not say"),
        ("over: sample", "over: stream", "over"),
        ("over: sample", "newlines: keep", "newlines: keep at decoder.0 gives newline tokens places"),
        ("keep: mean 1/9", "keep: mean auto", "a mean is of a count or a fraction"),
    ],
)
def test_a_mean_that_says_nothing_is_refused_with_its_line(old, new, said):
    assert old in MEAN
    text = MEAN.replace(old, new)
    with pytest.raises((RecipeError, BudgetError), match=said) as caught:
        ts.Recipe.loads(text, source="mine.yaml")
    assert "(mine.yaml:" in str(caught.value)


def test_a_mean_is_no_size_inside_a_formula_and_no_budget_of_one_selection():
    with pytest.raises(FormulaError, match="best takes a count or a fraction, not mean 1/3"):
        _ = Norm()["mean 1/3"]
    with pytest.raises(BudgetError, match="is a mean, which several groups meet together"):
        ts.select(Norm(), sample([9, 4]), ts.Keep.of("mean 3"))
    with pytest.raises(BudgetError, match="no demand to share a mean by"):
        ts.Recipe.load("norm", keep="mean 1/9")


def test_over_without_a_mean_and_means_in_a_table_of_budgets_are_refused():
    with pytest.raises(RecipeError, match=r"over: sample at decoder\.0 says which groups share a mean"):
        ts.Recipe.of(Norm(), 4, over="sample")
    stages = tuple(ts.Stage(at=f"decoder.{k}", select=Norm(), keep=4 - k) for k in (0, 1))
    with pytest.raises(RecipeError, match="budget 9 has a mean for an entry"):
        ts.Recipe(stages=stages, budgets={9: ["mean 4", 2]})


def test_a_review_knows_means_and_says_where_one_shares_nothing():
    assert ts.review(ts.Recipe.loads(MEAN)) == []
    said = [str(one) for one in ts.review(ts.Recipe.loads(MEAN.replace("over:", "per: sample\n    over:")))]
    assert any("per: sample makes one" in one for one in said)
    collapsed = MEAN.replace("select: divprune", "select: divprune[64] & norm[64]\n    by: norm")
    assert any("collapses" in str(one) for one in ts.review(ts.Recipe.loads(collapsed.replace("1/9", "64"))))
    all_of_them = ts.review(ts.Recipe.loads(MEAN.replace("1/9", "100%")))
    assert ["keeps all tokens" in one.message for one in all_of_them] == [True]


def test_what_a_mean_costs_is_counted_where_it_is_known():
    model = shared("sdpa")
    n = patches(model)
    read = ts.Recipe.loads(MEAN)
    said = str(ts.explain(read, model, visual=n))
    assert "in the mean over a prompt, by what each needs" in " ".join(said.split())
    assert f"{n // 9:,} visual tokens" in said
    batched = str(ts.explain(ts.Recipe.loads(MEAN.replace("over: sample", "over: batch")), model, visual=n))
    assert "has keep: mean 1/9 at decoder.0: what stays depends on the picture" in " ".join(batched.split())


def test_inside_a_vision_encoder_a_mean_is_refused():
    cut = ts.Recipe(stages=(ts.Stage(at="encoder.1", select=Norm(), keep="mean 4", demand=Diversity(), rest="merge"),))
    with pytest.raises(RefusedError, match="a mean is shared at decoder sites"):
        ts.prune(shared("sdpa"), cut).__enter__()
