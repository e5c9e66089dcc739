"""The sentence that a report starts with: what won, and how sure that is."""

from dataclasses import replace

import pytest

from tokensieve.plugins.registry import default_registry
from tokensieve.study.analysis.collect import collect
from tokensieve.study.analysis.findings import make_findings
from tokensieve.study.report.figures.curves import accuracy_tokens
from tokensieve.study.report.figures.style import line_styles
from tokensieve.study.report.headline import NOTHING_RANKED, headline
from tokensieve.study.report.tables.accuracy import accuracy_table
from tokensieve.study.report.tables.ranks import rank_table, ranks_of

from . import synthetic
from .synthetic import Made, Shapes

TASK = Shapes(pictures=40)


def findings_of(made):
    return [make_findings(comparison, default_registry()) for comparison in collect(made)]


def clear(**shares):
    """A study at one budget where every method has a share of questions right: the first ones of each picture."""
    made = Made()
    arms = [("unpruned", "unpruned", None), ("random", "random", "1/9")]
    arms += [(name, "method", "1/9") for name in shares if name != "random"]
    for method, role, keep in arms:
        cell = synthetic.cell(TASK, "m", method, role, keep, seed=0 if role == "random" else None)
        rows = []
        for sample in TASK.samples():
            place = int(sample.id.split("-")[1])
            luck = 0.0 if place < 5 * shares.get(method, 1.0) else 2.0
            rows.append(synthetic.row(cell, sample, 1, None if keep is None else 16, luck))
        made.add(cell, rows)
    return findings_of(made)


def test_a_clear_winner_is_named_with_how_sure_that_is():
    said = headline(clear(gsp=1.0, qcsp=0.6, random=0.4))
    assert said == (
        "gsp has the most right answers; it is shown to beat the best control, and is surely the best (95 %, corrected "
        "for multiple comparisons); at keep 1/9 it has 100.0 ±1.5 % of the unpruned accuracy."
    )


def test_methods_in_front_together_are_no_winners():
    said = headline(clear(gsp=0.8, qcsp=0.8, random=0.4))
    assert said == ("Nothing is in front alone: gsp and qcsp have the most right answers equally often.")


def test_a_control_in_front_is_called_one():
    said = headline(clear(gsp=0.4, random=0.8))
    assert said == "random, a control, has the most right answers; no method is shown to win."


def test_a_winner_that_is_not_shown_to_win_is_called_so():
    made = synthetic.study(Shapes(pictures=5), models=("small-a",), keeps=("1/9", "1/18"), methods=("script", "qcsp"))
    said = headline(findings_of(made))
    assert "it is nowhere shown to beat the best control, nor to be surely the best (95 %)" in said


def test_without_anything_beside_it_nothing_is_ranked():
    made = Made()
    for method, role, keep in (("unpruned", "unpruned", None), ("gsp", "method", "1/9")):
        synthetic.fill(made, TASK, synthetic.cell(TASK, "m", method, role, keep), 0.9)
    assert headline(findings_of(made)) == NOTHING_RANKED


@pytest.fixture(scope="module")
def two():
    keeps = ("1/3", "1/9", "1/36")
    return findings_of(synthetic.study(Shapes(pictures=16), keeps=keeps, methods=("script", "gsp", "fastv")))


def test_the_counts_are_those_of_the_tables(two):
    """Counted again, from the arms and from the findings."""
    said = headline(two)
    led = beats = alone = total = 0
    for found in two:
        comparison = found.comparison
        for keep in ("1/3", "1/9", "1/36"):
            # `fastv` has other numbers of tokens, so it stands in no row with others.
            arms = [
                arm
                for arm in comparison.arms
                if arm.keep == keep and arm.method != "fastv" and arm.role not in ("oracle", "anti_oracle", "inverted")
            ]
            mask = comparison.headline
            scores = {arm.method: arm.correct[mask].mean() for arm in arms}
            total += 1
            if scores["script"] < max(scores.values()):
                continue
            led += 1
            control = next(one for one in found.controls if (one.arm.method, one.arm.keep) == ("script", keep))
            beats += control.difference.verdict == "better"
            block = comparison.block_of(control.arm)
            ranks = dict(zip([arm.method for arm in block.arms], ranks_of(comparison, block.arms), strict=True))
            alone += ranks["script"].high == 1
    assert said.startswith(f"script has the most right answers at {led} of {total} budgets (over 2 models); ")
    words = {0: "none of these", led: "all of these"}
    assert f"beat the best control at {words.get(beats, f'{beats} of these')}, and" in said
    assert f"surely the best at {words.get(alone, f'{alone} of these')} (95 %" in said


def test_answers_that_are_compared_agree_and_are_not_right():
    """In the sentence, the tables and the figures; the unpruned model agrees with itself, so no part of it is named."""
    [findings] = clear(gsp=1.0, qcsp=0.6, random=0.4)
    compared = replace(findings.comparison, card={**findings.comparison.card, "metric": "top1_agreement"})
    other = make_findings(compared, default_registry())
    assert headline([other]) == (
        "gsp has the most agreeing answers; it is shown to beat the best control, and is surely the best (95 %, "
        "corrected for multiple comparisons)."
    )
    words = {}
    for name, one in (("right", findings), ("agreeing", other)):
        tables = [accuracy_table(one), rank_table(one)]
        drawing = accuracy_tokens(one, line_styles({arm.method: arm.role for arm in one.comparison.arms}))
        said = [note for table in tables for note in table.notes] + [drawing.title, drawing.figure.axes[0].get_ylabel()]
        words[name] = " ".join(said).lower()
        assert f"{name} answers in %" in words[name]
        assert f"rank by {name} answers" in words[name]
        assert f"{name} answers against visual tokens" in words[name]
        assert f"{name} answers, %" in words[name]
    assert "right answers" not in words["agreeing"]
