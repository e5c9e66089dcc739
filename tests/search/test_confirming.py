"""What held-out pictures say, from answers made by hand; parts of pictures; and a small search from end to end."""

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.study.made import row
from typer.testing import CliRunner

import tokensieve as ts
from tokensieve.checkpoints.loading import load_adapter
from tokensieve.cli import app
from tokensieve.errors import StudyError
from tokensieve.search.bench import Scores, cost_of, with_part
from tokensieve.search.confirmation import (
    MOST_CONFIRMED,
    Comparison,
    Confirmation,
    Confirmed,
    chosen,
    confirm,
    confirmation_study,
)
from tokensieve.search.given import matched_candidates
from tokensieve.search.report import search_section
from tokensieve.search.trial import Measured, Trial
from tokensieve.study.analysis.collect import collect
from tokensieve.study.planning import versions
from tokensieve.study.planning.tasks import prepare_task
from tokensieve.study.sampling import part_of, select_samples
from tokensieve.study.spec.study import Study
from tokensieve.study.statistics import Design, Interval
from tokensieve.study.store import Store
from tokensieve.tasks import Sample

from .conftest import REGISTRY, shipped

PICTURES, EACH = 60, 2
GIVEN = shipped()
QUICK = Design(resamples=400)


def scores(right, cost=0.1):
    """Answers of which as many are right as asked, in every picture alike."""
    correct = np.zeros((EACH, PICTURES))
    correct.flat[: round(right * correct.size)] = 1
    clusters = tuple(("t", f"p{i}") for _ in range(EACH) for i in range(PICTURES))
    return Scores(correct.ravel(), clusters, (("m", "t"),) * correct.size, cost, cost)


class Answers:
    """A part of the pictures with answers made by hand, by name."""

    def __init__(self, by_name):
        self._by_hash = {"": by_name.pop("unpruned", scores(1.0, 1.0))}
        self._by_hash |= {GIVEN[f"{name} at 16"].hash: made for name, made in by_name.items()}

    def scores(self, candidate):
        return self._by_hash["" if candidate is None else candidate.hash]

    def has(self, candidate):
        return candidate.hash in self._by_hash

    def why_not(self, recipe, strict):
        return None


def trials(names, bench):
    return [
        Trial(name, "measured", GIVEN[f"{name} at 16"], bench.scores(GIVEN[f"{name} at 16"]).measured) for name in names
    ]


def confirmed(search, held_out, found):
    search, held_out = Answers(search), Answers(held_out)
    others = [name.split(" at ")[0] for name, one in GIVEN.items() if search.has(one)]
    given = trials([name for name in others if name not in found], search)
    return confirm(trials(found, search), given, search, held_out, QUICK)


def test_what_is_better_on_held_out_pictures_is_said_to_be():
    made = confirmed(
        {"gsp": scores(0.9), "norm": scores(0.6), "trim": scores(0.5)},
        {"gsp": scores(0.9), "norm": scores(0.6), "trim": scores(0.5)},
        ["gsp"],
    )
    [one] = made.comparisons
    assert (one.verdict, one.opponent, one.opponents) == ("better", "norm", 2)
    assert one.difference.estimate == pytest.approx(0.3, abs=0.01)
    assert made.best is one
    assert (made.samples, made.pictures) == (PICTURES * EACH, PICTURES)


def test_luck_on_the_pictures_of_the_search_is_shown_and_proves_nothing():
    made = confirmed({"gsp": scores(0.9), "norm": scores(0.6)}, {"gsp": scores(0.6), "norm": scores(0.6)}, ["gsp"])
    [one] = made.comparisons
    assert one.verdict == "open"
    assert one.p_holm > 0.5
    assert one.found.lost == pytest.approx(0.3, abs=0.01)
    assert [given.lost for given in made.given] == [0]


def test_dearer_recipes_are_no_opponents():
    made = confirmed(
        {"gsp": scores(0.5), "norm": scores(1.0, 0.4)}, {"gsp": scores(0.5), "norm": scores(1.0, 0.4)}, ["gsp"]
    )
    assert [(one.verdict, one.opponent, one.p_holm) for one in made.comparisons] == [("alone", None, 1.0)]
    cheap = confirmed(
        {"gsp": scores(0.5, 0.4), "norm": scores(1.0)}, {"gsp": scores(0.5, 0.4), "norm": scores(1.0)}, ["gsp"]
    )
    assert [(one.verdict, one.opponent) for one in cheap.comparisons] == [("worse", "norm at 16")] or [
        ("worse", "norm")
    ]


def test_p_values_are_corrected_for_the_number_of_confirmed_recipes():
    answers = {name: scores(0.6 + 0.02 * place) for place, name in enumerate(("norm", "gsp", "trim", "cdpruner"))}
    alone = confirmed(dict(answers), dict(answers), ["cdpruner"])
    several = confirmed(dict(answers), dict(answers), ["cdpruner", "trim", "gsp"])
    [one] = alone.comparisons
    assert one.p_holm == one.p
    assert [two.p_holm >= min(1, 3 * min(o.p for o in several.comparisons)) for two in several.comparisons] == [
        True
    ] * 3
    wide = next(two for two in several.comparisons if two.found.name == "cdpruner").difference
    narrow = confirmed(
        {n: answers[n] for n in ("norm", "cdpruner")}, {n: answers[n] for n in ("norm", "cdpruner")}, ["cdpruner"]
    )
    assert wide.low < narrow.comparisons[0].difference.low


def test_a_recipe_that_failed_on_held_out_pictures_is_left_out():
    made = confirmed(
        {"gsp": scores(0.5), "norm": scores(0.6), "trim": scores(0.9)},
        {"gsp": scores(0.5), "norm": scores(0.6)},
        ["gsp"],
    )
    assert [one.name for one in made.given] == ["norm"]
    with pytest.raises(StudyError, match="everything that was found failed on held-out pictures"):
        confirmed({"gsp": scores(0.5), "norm": scores(0.6)}, {"norm": scores(0.6)}, ["gsp"])


def test_models_and_tasks_have_the_same_weight():
    clusters = tuple(("t", str(i)) for i in range(4))
    made = Scores(np.array([1.0, 0, 0, 0]), clusters, (("a", "t"), *((("b", "t"),) * 3)), 0.5, 0.5)
    assert made.measured.accuracy == 0.5


def test_a_late_cut_meets_given_recipes_with_as_many_tokens():
    bench = Answers({"divprune-fastv": scores(0.9, 0.41), "gsp": scores(0.8), "norm": scores(0.7), "trim": scores(0.6)})
    known = trials(["gsp", "norm", "trim"], bench)
    late = trials(["divprune-fastv"], bench)
    tokens = {one.name: bench.scores(one.candidate).tokens for one in [*known, *late]}
    known, late = ([replace(one, name=f"{one.name} at 16") for one in some] for some in (known, late))
    tokens = {f"{name} at 16": share for name, share in tokens.items()}
    matched = matched_candidates(late, known, tokens, bench)
    assert list(matched) == ["gsp at 41/100", "norm at 41/100", "trim at 41/100"]
    assert {str(one.recipe.stages[0].keep) for one in matched.values()} == {"41/100"}
    # A recipe that costs what a given one costs has its opponents.
    assert matched_candidates(known[:1], known, tokens, bench) == {}


def test_of_a_long_front_both_ends_and_what_lies_between_are_confirmed():
    long = [Trial(f"trial {i}", "measured") for i in range(31)]
    few = chosen(long)
    assert len(few) == MOST_CONFIRMED
    assert (few[0], few[-1]) == (long[0], long[-1])
    assert chosen(long[:3]) == tuple(long[:3])


@pytest.mark.parametrize(("cost", "share"), [("tokens", 22.5 / 36), ("flops", 0.1), ("ms", 0.5)])
def test_costs_are_shares_of_the_unpruned_model(cost, share):
    assert cost_of([row(), row(1)], [row(ms=3.0), row(1, ms=3.0)], cost) == pytest.approx(share)


ENDS = st.fractions(0, 1)


@settings(max_examples=examples(200), deadline=None)
@given(pictures=st.lists(st.integers(0, 40), min_size=1, max_size=60), end=ENDS, limit=st.integers(1, 30))
def test_parts_share_no_picture_and_together_are_all(pictures, end, limit):
    samples = [Sample(f"s{i}", "?", f"p{picture}", kind=f"k{i % 3}") for i, picture in enumerate(pictures)]
    first, second = part_of(samples, (Fraction(0), end)), part_of(samples, (end, Fraction(1)))
    assert {one.image for one in first}.isdisjoint(one.image for one in second)
    assert sorted([*first, *second], key=samples.index) == samples
    assert part_of(list(reversed(samples)), (Fraction(0), end)) == list(reversed(first))
    assert set(select_samples(samples, limit, (Fraction(0), end))) <= set(first)
    number = len(set(pictures))
    assert len({one.image for one in first}) == int(end * number)


STUDY = """
models: [world-llava]
recipes: [gsp]
keep: [16]
tasks: [{use: world, pictures: 4, per_picture: 1}]
seeds: [0]
controls: {inverted: [], at_every_site: false}
"""


def test_a_study_asks_about_a_part_of_the_pictures_and_says_so_on_the_card():
    study = Study.loads(STUDY.replace("per_picture: 1", "per_picture: 1, part: [0, 1/2]"), REGISTRY)
    assert Study.loads(study.dump(), REGISTRY) == study
    task = prepare_task(study, 0, REGISTRY)
    assert len({sample.image for sample in task.samples}) == 2
    assert task.card["part"] == "pictures from 0 to 1/2 of all"
    # A part of a part.
    inner = with_part(study, (Fraction(1, 2), Fraction(1)))
    assert inner.tasks[0].part == (Fraction(1, 4), Fraction(1, 2))
    [other] = {sample.image for sample in prepare_task(inner, 0, REGISTRY).samples}
    assert other in {sample.image for sample in task.samples}


@pytest.mark.parametrize("part", ["[1/2, 1/4]", "[0, 2]", "[0]", "half", "[0, 1/0]", "[a, b]"])
def test_what_is_no_part_is_refused_with_its_line(part):
    with pytest.raises(StudyError, match=r"part is two ends of all pictures.*:5\)"):
        Study.loads(STUDY.replace("per_picture: 1", f"per_picture: 1, part: {part}"), REGISTRY, "s.yaml")


def test_a_part_without_a_picture_is_refused():
    study = Study.loads(STUDY.replace("per_picture: 1", "per_picture: 1, part: [0, 0.01]"), REGISTRY)
    with pytest.raises(StudyError, match="'world' has no picture in the part from 0 to 1/100"):
        prepare_task(study, 0, REGISTRY)


def test_the_study_of_the_confirmation_has_what_was_found_and_given_at_their_budgets():
    study = Study.loads(STUDY, REGISTRY)
    [found] = trials(["script"], Answers({"script": scores(1.0)}))
    made = confirmation_study(study, [replace(found, name="trial 7")], GIVEN)
    assert [entry.name for entry in made.recipes][:2] == ["trial 7", "cdpruner"]
    assert Study.loads(made.dump(), REGISTRY) == made


def test_a_search_from_end_to_end(tmp_path):
    file, out = tmp_path / "study.yaml", tmp_path / "out"
    file.write_text(STUDY, encoding="utf-8")

    def search(*more):
        words = ["search", str(file), "--out", str(out), "--no-shipped", "--in-process", *more]
        return CliRunner().invoke(app, [*words], env={"COLUMNS": "200"})

    first = search("--trials", "1")
    assert first.exit_code == 0, first.output
    assert "1 measured" in first.output
    again = search("--trials", "1")
    assert again.exit_code == 0, again.output
    assert "confirmed: 0 cells run" in again.output
    recipe = ts.Recipe.load(out / "best.yaml")
    best = (out / "best.yaml").read_text(encoding="utf-8")
    assert best.startswith(f"# trial {recipe.name.removeprefix('trial-')} of a search for accuracy against tokens")
    assert "held-out questions about 2 pictures" in best
    adapter = load_adapter(REGISTRY.checkpoint("world-llava").folder, REGISTRY)
    assert {finding.level for finding in ts.review(recipe, adapter)} <= {"note"}
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert result["held_out"]["pictures"] == 2
    # What was given has, beside its own budget, those at which it costs what was found.
    names = [one["name"] for one in result["given"]]
    assert names[0] == "gsp at 16"
    assert {name.split(" at ")[0] for name in names} == {"gsp"}
    # The unpruned model, what was drawn, and what was given: each once.
    assert len(list((out / "calibration" / "cells").iterdir())) == 1 + 1 + len(names)
    [comparison] = collect(Store(out / "confirmed"))
    assert {"unpruned", "gsp"} < {arm.method for arm in comparison.arms}
    assert set(comparison.images).isdisjoint(collect(Store(out / "calibration"))[0].images)
    # With another release no cell would be found again.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(versions, "code_hash", lambda kinds: "another")
        other = search("--trials", "1")
    assert other.exit_code == 1
    assert f"{out} holds another search: it differs in versions" in other.output
    # The report starts with what was found.
    assert f"report: {out}/report/index.html" in again.output
    page = (out / "report" / "index.html").read_text(encoding="utf-8")
    assert "<h3" in page.split("What did the search find?")[1]
    table = (out / "report" / "tables" / "search.csv").read_text(encoding="utf-8")
    for one in [*result["found"], *result["given"]]:
        [line] = [line for line in table.splitlines() if one["name"] in line]
        for part in ("calibration", "held_out"):
            assert f"{100 * one[part]['accuracy']:.1f}" in line


def on_both(name, before, after):
    right = Interval(after, after - 0.1, after + 0.1, level=0.95, samples=120, clusters=60)
    return Confirmed(name, None, Measured(before, 0.25), Measured(after, 0.25), right)


def test_the_section_of_a_report_says_what_was_luck():
    found, given = on_both("trial 1", 0.9, 0.7), on_both("gsp at 16", 0.6, 0.65)
    made = Confirmation((Comparison(found),), (given,), on_both("unpruned", 1.0, 1.0), 120, 60)
    section = search_section(made, "flops")
    assert section.headline == (
        "Of the search, no given recipe costs as little as trial 1, so it is compared with none."
    )
    [answer] = section.question.answers
    assert "Here it has -20.0 points, and what was given +5.0." in answer.text
    [table] = section.question.tables
    assert table.columns[0] == "flops %"
    assert [[row.label for row in group.rows] for group in table.groups] == [["unpruned"], ["trial 1"], ["gsp at 16"]]
    assert table.groups[1].rows[0].cells[:2] == ("25.0", "90.0")
    [drawing] = section.drawings
    text = drawing.to_bytes("svg").decode()
    assert all(word in text for word in ("found", "given", "unpruned", "flops, % of the unpruned model"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--objective", "speed"], "accuracy:tokens"),
        (["--calibration", "1"], "no part of the pictures"),
        (["--budget", "many"], "keep 'many'"),
        (["--in-process", "--workers", "2"], "--workers does not go with it"),
    ],
)
def test_a_wrong_command_line_is_told_before_anything_is_read(words, said):
    result = CliRunner().invoke(app, ["search", "nothing.yaml", "--out", "x", *words], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert said in result.output


def test_too_few_pictures_are_refused(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.replace("pictures: 4", "pictures: 3"), encoding="utf-8")
    result = CliRunner().invoke(app, ["search", str(file), "--out", str(tmp_path / "o")])
    assert result.exit_code == 1
    assert "the part of 'world' has fewer than two pictures" in result.stderr
