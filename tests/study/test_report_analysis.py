"""What a report may compare, and what it says of it; references are loops over rows."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest, kendalltau

from tokensieve.errors import StudyError
from tokensieve.plugins.registry import default_registry
from tokensieve.study import statistics
from tokensieve.study.analysis import significance
from tokensieve.study.analysis.collect import _with_sample_order, collect
from tokensieve.study.analysis.comparison import BUDGET_TOLERANCE
from tokensieve.study.analysis.filtered import filtered_blocks
from tokensieve.study.analysis.findings import make_findings
from tokensieve.study.analysis.matching import matched_controls
from tokensieve.study.analysis.measured import KeptIds, MeasuredCell
from tokensieve.study.analysis.transfers import order_transfers
from tokensieve.study.report.answers import answer_questions
from tokensieve.study.report.tables.accuracy import relative
from tokensieve.study.report.tables.filtered import filtered_table
from tokensieve.study.report.tables.latex import to_latex

from . import synthetic
from .synthetic import KEEPS, Made, Shapes

TASK = Shapes(pictures=24)
SMALL = tuple(KEEPS)[1:4]


@pytest.fixture(scope="module")
def made():
    return synthetic.study(TASK, keeps=SMALL, methods=("script", "gsp", "qcsp", "fastv"))


@pytest.fixture(scope="module")
def comparisons(made):
    return collect(made)


@pytest.fixture(scope="module")
def all_findings(comparisons):
    return [make_findings(comparison, default_registry()) for comparison in comparisons]


def rows_of(made, **wanted):
    """All rows of the cells that have these attributes, cell by cell."""
    return [
        rows
        for cell, rows in made.content.values()
        if all(getattr(cell, name) == want for name, want in wanted.items())
    ]


# ------------------------------------------------------------------------------------------ where a smaller image fails


def test_the_filter_leaves_what_a_smaller_image_does_not_answer(made, comparisons):
    """By loops over the rows that were made."""
    comparison, other = comparisons
    # Its processor makes no smaller images.
    assert filtered_blocks(other) == ()
    [whole] = rows_of(made, model=comparison.model, role="unpruned")
    counted = [row.kind in comparison.headline_kinds and row.correct == 1 for row in whole]
    blocks = filtered_blocks(comparison)
    assert [one.block.keep for one in blocks] == list(SMALL)
    for one in blocks:
        [smaller] = rows_of(made, model=comparison.model, role="downsampled", keep=one.block.keep)
        left = [place for place, row in enumerate(smaller) if counted[place] and row.correct == 0]
        assert (one.asked, one.left) == (sum(counted), len(left))
        found = {arm.method: share.estimate for arm, share in one.shares}
        assert {"downsampled", "unpruned", "oracle"}.isdisjoint(found)
        assert {"gsp", "script", "random", "uniform"} <= set(found)
        for method, share in found.items():
            cells = rows_of(made, model=comparison.model, method=method, keep=one.block.keep)
            right = [sum(rows[place].correct for place in left) / len(left) for rows in cells]
            assert share == pytest.approx(sum(right) / len(right))
        assert list(found.values()) == sorted(found.values(), reverse=True)


def test_the_filter_says_nothing_of_few_questions_or_without_a_smaller_image(comparisons, all_findings):
    comparison = comparisons[0]
    without = replace(comparison, arms=tuple(arm for arm in comparison.arms if arm.role != "downsampled"))
    assert filtered_blocks(without) == ()
    assert filtered_blocks(replace(comparison, arms=tuple(a for a in comparison.arms if a.role != "unpruned"))) == ()
    few = replace(comparison, images=("one",) * len(comparison.images))
    assert all(one.left > 10 and one.shares == () for one in filtered_blocks(few))
    assert filtered_table(few, filtered_blocks(few)) is None
    [asked] = [one for one in answer_questions(all_findings) if one.name == "filtered"]
    assert [answer.title for answer in asked.answers] == ["small-a on shapes", "small-b on shapes"]
    assert asked.answers[1].text.startswith("No smaller image was measured")
    block = filtered_blocks(comparison)[0]
    arm, share = block.shares[0]
    keep, said = asked.answers[0].points[0]
    assert (keep, said.split(" ±")[0]) == (
        block.block.keep,
        f"{block.left} of {block.asked} questions; most right: {arm.method}, {100 * share.estimate:.1f}",
    )
    assert len(asked.tables) == 1
    none = [replace(findings, comparison=without) for findings in all_findings[:1]]
    assert "filtered" not in [one.name for one in answer_questions(none)]


# ------------------------------------------------------------------------------------------------ what is compared


def test_a_comparison_is_a_model_on_a_task(made, comparisons):
    assert [one.title for one in comparisons] == ["small-a on shapes", "small-b on shapes"]
    for comparison in comparisons:
        cells = [cell for cell, _ in made.content.values() if cell.model == comparison.model]
        assert sum(len(arm.cells) for arm in comparison.arms) == len(cells)
        assert comparison.methods == ("script", "gsp", "qcsp", "fastv")
        assert comparison.keeps == SMALL
        assert comparison.excluded == ()


def test_budgets_keep_their_order_though_one_has_fewer_cells_that_cut_early(made):
    """What does not apply at a budget leaves it with more of the late cuts, which cost more than early ones."""
    middle, smallest = SMALL[1:]
    late = {key for key, (cell, _) in made.content.items() if cell.keep == middle and cell.method == "fastv"}
    early = {
        key
        for key, (cell, _) in made.content.items()
        if cell.keep == smallest and cell.method not in ("fastv", "script")
    }
    assert late
    assert early
    fewer = Made()
    fewer.content = {key: value for key, value in made.content.items() if key not in early | late}
    for comparison in collect(fewer):
        assert comparison.keeps == SMALL


def test_an_arm_is_the_mean_over_seeds_of_every_sample(made, comparisons):
    [first, _] = comparisons
    arm = first.find_arm("random", "1/9")
    seeds = rows_of(made, model="small-a", method="random", keep="1/9")
    assert len(seeds) == 3
    for number, name in enumerate(first.samples):
        own = [row for rows in seeds for row in rows if row.sample == name]
        assert arm.correct[number] == pytest.approx(sum(row.correct for row in own) / 3)
        assert arm.recall[number] == pytest.approx(sum(row.recall for row in own) / 3)
    flat = [row for rows in seeds for row in rows]
    assert arm.tokens == pytest.approx(sum(sum(row.per_layer) / len(row.per_layer) for row in flat) / len(flat))
    assert arm.flops == pytest.approx(sum(row.flops for row in flat) / len(flat))
    assert arm.ms == pytest.approx(sum(row.ms for row in flat) / len(flat))


def test_what_stayed_is_what_the_rows_say():
    given = [((0, 7, 575), (7,)), (), ((), ()), ((2,),), ((1, 2), (), (2**31 - 1,))]
    kept = KeptIds.of(given)
    assert list(kept) == given
    assert [kept[place] for place in range(-5, 5)] == given * 2
    assert list(kept.reorder(np.array([4, 0, 0, 2]))) == [given[place] for place in (4, 0, 0, 2)]
    assert list(KeptIds.of([])) == []
    for place in (5, -6):
        with pytest.raises(IndexError):
            kept[place]


def test_what_stayed_is_held_in_four_bytes_an_id():
    task = Shapes(pictures=40)
    cell = synthetic.cell(task, "m", "gsp", "method", "1/3")

    def rows():
        blank = synthetic.row(cell, synthetic.sample(0, 0), 0.5, 4, 0.5)
        return [
            replace(blank, sample=f"{number}", kept=(tuple(range(1000 + number, 1500 + number)),))
            for number in range(200)
        ]

    MeasuredCell.of(cell, rows())
    tracemalloc.start()
    measured = MeasuredCell.of(cell, rows())
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(measured.kept[199][0]) == 500
    assert held < 200 * 500 * 4 * 1.5


def test_the_tower_counts_where_it_was_pruned():
    made = Made()
    task = Shapes(pictures=2)
    cell = synthetic.cell(task, "m", "tome", "method", "1/3")
    synthetic.fill(made, task, cell, 0.5)
    made.content[cell.key] = cell, [replace(row, tower_flops=1_000) for row in made.content[cell.key][1]]
    [comparison] = collect(made)
    assert comparison.arms[0].flops == made.content[cell.key][1][0].flops + 1_000


def test_types_below_80_percent_are_left_out(made, comparisons):
    for comparison in comparisons:
        [rows] = rows_of(made, model=comparison.model, role="unpruned")
        for kind in synthetic.KINDS:
            own = [row.correct for row in rows if row.kind == kind]
            right = sum(own) / len(own)
            assert (kind in comparison.headline_kinds) == (right >= 0.8)
            if right < 0.8:
                assert comparison.left_out[kind] == (pytest.approx(right), len(own))
        assert "count" in comparison.left_out
        assert [row.kind in comparison.headline_kinds for row in rows] == comparison.headline.tolist()


def test_if_no_type_is_good_all_count():
    made = Made()
    task = Shapes(pictures=4)
    synthetic.fill(made, task, synthetic.cell(task, "m", "text_only", "unpruned", None), 0)
    [comparison] = collect(made)
    dull = [(cell, [replace(row, correct=0.0) for row in rows]) for cell, rows in made.content.values()]
    for cell, rows in dull:
        made.add(cell, rows)
    [comparison] = collect(made)
    assert comparison.headline.all()
    assert comparison.left_out == {}
    found = make_findings(comparison, default_registry())
    certainty = answer_questions([found])[-1].answers[0].text
    assert "has 80 % right in no type" in certainty


def test_a_block_holds_what_the_ledger_says_is_alike(comparisons):
    for comparison in comparisons:
        placed = [id(arm) for block in comparison.blocks for arm in (*block.arms, *block.bounds)]
        assert len(placed) == len(set(placed)) == sum(arm.keep is not None for arm in comparison.arms)
        for block in comparison.blocks:
            every = [arm.tokens for arm in (*block.arms, *block.bounds)]
            assert max(every) <= min(every) * (1 + BUDGET_TOLERANCE)
            assert {arm.keep for arm in (*block.arms, *block.bounds)} == {block.keep}
            assert not {arm.role for arm in block.arms} & {"oracle", "anti_oracle", "inverted", "unpruned"}
            scores = [np.mean(arm.correct[comparison.headline]) for arm in block.arms]
            assert scores == sorted(scores, reverse=True)
        # It keeps as many, but only from the second layer on.
        late = comparison.block_of(comparison.find_arm("fastv", "1/9"))
        assert [arm.method for arm in late.arms] == ["fastv"]


def test_nothing_without_a_budget_is_in_a_block(comparisons):
    with pytest.raises(StudyError, match="'unpruned' of small-a on shapes is in no block"):
        comparisons[0].block_of(comparisons[0].unpruned)


def test_rivals_match_the_ledger(comparisons):
    [first, _] = comparisons
    arm = first.find_arm("script", "1/9")
    found = matched_controls(first, arm)
    assert {control.role for control in found} == {"random", "uniform", "pool", "downsampled"}
    assert not any(control.mixed for control in found)
    scores = [float(np.mean(control.correct[first.headline])) for control in found]
    assert scores == sorted(scores, reverse=True)
    assert all(control.tokens == pytest.approx(arm.tokens, rel=BUDGET_TOLERANCE) for control in found)


def test_a_mixture_costs_exactly_as_much(comparisons):
    [first, _] = comparisons
    arm = first.find_arm("fastv", "1/9")
    assert arm.tokens == pytest.approx((2 * 144 + 4 * 16) / 6)
    for control in matched_controls(first, arm):
        # Between the largest budget of a control and the unpruned model.
        below = first.find_arm(control.role, "2/9")
        part = (arm.tokens - 32) / (144 - 32)
        assert control.mixed
        assert control.tokens == arm.tokens == pytest.approx(part * 144 + (1 - part) * below.tokens)
        for number in range(len(first.samples)):
            expected = part * first.unpruned.correct[number] + (1 - part) * below.correct[number]
            assert control.correct[number] == pytest.approx(expected)


def test_of_controls_with_one_ledger_that_of_the_same_shape_is_the_rival():
    made = Made()
    task = Shapes(pictures=3)
    for method, role, shape in (
        ("gsp", "method", "late"),
        ("random", "random", "early"),
        ("random late", "random", "late"),
    ):
        cell = replace(synthetic.cell(task, "m", method, role, "1/3"), shape=shape)
        synthetic.fill(made, task, cell, 0.5)
    [comparison] = collect(made)
    [control] = matched_controls(comparison, comparison.find_arm("gsp", "1/3"))
    assert control.name == "random late at 1/3"


@pytest.mark.parametrize("change", ["card", "weights"])
def test_other_cards_and_other_weights_are_other_comparisons(change):
    made = Made()
    one, other = Shapes(pictures=3), Shapes(pictures=3, protocol="ocr")
    synthetic.fill(made, one, synthetic.cell(one, "m", "gsp", "method", "1/3"), 0.5)
    task = other if change == "card" else one
    cell = synthetic.cell(task, "m", "gsp", "method", "1/9")
    if change == "weights":
        cell = replace(cell, model_hash="other")
    synthetic.fill(made, task, cell, 0.5)
    found = collect(made)
    assert len(found) == 2
    assert [len(comparison.arms) for comparison in found] == [1, 1]


def test_rows_in_another_order_are_the_same_cell(made, comparisons):
    straight = {key: (cell, rows) for key, (cell, rows) in made.content.items() if cell.method == "unpruned"}
    turned = {key: (cell, rows[::-1]) for key, (cell, rows) in made.content.items() if cell.method == "gsp"}
    shuffled = Made({**straight, **turned})
    for comparison, whole in zip(collect(shuffled), comparisons, strict=True):
        for keep in SMALL:
            assert comparison.samples == whole.samples
            np.testing.assert_array_equal(comparison.find_arm("gsp", keep).correct, whole.find_arm("gsp", keep).correct)
            assert list(comparison.find_arm("gsp", keep).cells[0].kept) == list(
                whole.find_arm("gsp", keep).cells[0].kept
            )


def test_what_cannot_be_paired_is_excluded_and_said():
    made = Made()
    task = Shapes(pictures=3)
    for method in ("gsp", "qcsp", "script"):
        synthetic.fill(made, task, synthetic.cell(task, "m", method, "method", "1/3"), 0.5)
    cell = synthetic.cell(task, "m", "fastv", "method", "1/3")
    made.add(cell, made.content[synthetic.cell(task, "m", "gsp", "method", "1/3").key][1][:4])
    older = replace(made.content[synthetic.cell(task, "m", "gsp", "method", "1/3").key][0], key="old")
    made.add(replace(older, versions={**older.versions, "code": "older"}), made.content[cell.key][1] * 0 or [])
    made.content["old"] = (
        made.content["old"][0],
        made.content[synthetic.cell(task, "m", "qcsp", "method", "1/3").key][1],
    )
    [comparison] = collect(made)
    assert comparison.methods == ("gsp", "qcsp", "script")
    short, twice = sorted(comparison.excluded)
    assert short.startswith("fastv at 1/3: asked 4 samples")
    assert twice == "gsp at 1/3: cell old is there twice, made by other code or another recipe"


@pytest.mark.parametrize(("count", "said"), [(0, "has no rows"), (2, "has sample 'p00-0' twice")])
def test_a_cell_that_cannot_be_used_is_named(count, said):
    made = Made()
    task = Shapes(pictures=1)
    cell = synthetic.cell(task, "m", "gsp", "method", "1/3")
    synthetic.fill(made, task, cell, 0.5)
    made.content[cell.key] = cell, made.content[cell.key][1][:1] * count
    with pytest.raises(StudyError, match=f"{cell.key}.*{said}.*run it again"):
        collect(made)


def test_the_study_says_the_order(made):
    keys = list(made.content)[::-1]
    turned = Made(dict(made.content))
    turned.plan = lambda: {"keys": keys}
    assert [one.model for one in collect(turned)] == ["small-b", "small-a"]


# ------------------------------------------------------------------------------------------------- what was found


def exact(right):
    """A study on one model where each method has exactly these samples right, by role and name."""
    made = Made()
    task = Shapes(pictures=16)
    for (method, role), chosen in right.items():
        keep = None if role == "unpruned" else "1/9"
        of = method.removeprefix("inverted ") if role == "inverted" else None
        cell = synthetic.cell(task, "m", method, role, keep, of=of)
        synthetic.fill(made, task, cell, 0.5)
        rows = [replace(row, correct=float(chosen(n))) for n, row in enumerate(made.content[cell.key][1])]
        made.add(cell, rows)
    [comparison] = collect(made)
    return make_findings(comparison, default_registry())


@pytest.fixture(scope="module")
def clear():
    return exact(
        {
            ("unpruned", "unpruned"): lambda n: True,
            ("script", "method"): lambda n: n % 40 != 0,
            ("gsp", "method"): lambda n: n % 2 == 0,
            ("qcsp", "method"): lambda n: n % 2 == 1,
            ("fastv", "method"): lambda n: n % 10 == 0,
            ("random", "random"): lambda n: n % 2 == 0,
            ("uniform", "uniform"): lambda n: n % 3 == 0,
            ("inverted gsp", "inverted"): lambda n: n % 2 == 0,
            ("inverted script", "inverted"): lambda n: False,
        }
    )


def test_a_clear_winner_is_better_and_a_twin_is_open(clear):
    by = {one.arm.method: one for one in clear.controls}
    assert by["script"].other == "random at 1/9"
    assert by["script"].difference.verdict == "better"
    assert by["gsp"].difference.verdict == "open"
    assert by["gsp"].difference.value == pytest.approx(0)
    assert by["gsp"].difference.ties == 80
    assert by["script"].difference.wins == sum(n % 40 != 0 and n % 2 == 1 for n in range(80))
    assert by["script"].difference.losses == sum(n % 40 == 0 for n in range(80))
    assert by["fastv"].difference.verdict == "worse"


def test_holm_is_over_all_differences_of_a_question(clear, all_findings):
    for found in [clear, *all_findings]:
        for against in (found.controls, found.plain, found.attention):
            expected = statistics.holm([one.difference.p for one in against])
            assert [one.difference.holm for one in against] == pytest.approx(expected)


def by_hand(first, second):
    """McNemar's exact p-value of two lists of answers, or none where one is neither right nor wrong."""
    if not {*first, *second} <= {0.0, 1.0}:
        return None
    wins = sum(one > other for one, other in zip(first, second, strict=True))
    losses = sum(one < other for one, other in zip(first, second, strict=True))
    return binomtest(wins, wins + losses).pvalue if wins + losses else 1.0


def holm_by_hand(ps):
    """Each p-value times the number of those that are not smaller, and no smaller than any before it."""
    known = sorted(p for p in ps if p is not None)
    steps = [min(1.0, (len(known) - place) * p) for place, p in enumerate(known)]
    return [None if p is None else max(steps[: known.index(p) + 1]) for p in ps]


def test_mcnemar_stands_beside_the_interval(clear, all_findings):
    seen = set()
    for found in [clear, *all_findings]:
        mask = found.comparison.headline
        operands = [one for composed in found.compositions for one in composed.differences]
        for against in (found.controls, operands):
            expected = []
            for one in against:
                if one in operands:
                    other = found.comparison.find_arm(one.other, one.arm.keep).correct
                else:
                    [other] = [r.correct for r in matched_controls(found.comparison, one.arm) if r.name == one.other]
                expected.append(by_hand(one.arm.correct[mask].tolist(), other[mask].tolist()))
            assert [one.difference.mcnemar for one in against] == pytest.approx(expected)
            assert [one.difference.mcnemar_holm for one in against] == pytest.approx(holm_by_hand(expected))
            seen |= {p is None for p in expected}
    # Controls that are mixed, and means over draws, are neither right nor wrong.
    assert seen == {True, False}
    by = {one.arm.method: one.difference for one in clear.controls}
    assert by["gsp"].mcnemar == by["gsp"].mcnemar_holm == 1
    assert by["script"].mcnemar < by["script"].mcnemar_holm < 1e-6


def test_partial_credit_and_a_single_picture_have_no_mcnemar():
    half = exact({("gsp", "method"): lambda n: n % 3 / 2, ("random", "random"): lambda n: n % 2})
    assert [one.difference.mcnemar for one in half.controls] == [None]
    alone = significance.paired_differences(np.ones((1, 6)), np.zeros((1, 6)), np.zeros(6, dtype=np.int64))
    assert [one.mcnemar for one in alone] == [None]


def test_a_composition_is_set_against_its_operands(clear, all_findings):
    [composed] = clear.compositions
    assert (composed.arm.method, composed.intersects, composed.missing) == ("script", True, ())
    assert [one.other for one in composed.differences] == ["gsp", "qcsp"]
    assert composed.beats_each
    for found in all_findings:
        for one in found.compositions:
            mask = found.comparison.headline
            for against in one.differences:
                other = found.comparison.find_arm(against.other, one.arm.keep)
                assert against.difference.value == pytest.approx(np.mean(one.arm.correct[mask] - other.correct[mask]))


def test_an_operand_that_was_not_measured_is_missing():
    found = exact({("script", "method"): lambda n: True, ("gsp", "method"): lambda n: False})
    [composed] = found.compositions
    assert composed.missing == ("qcsp",)
    assert not composed.beats_each
    [answer] = next(q for q in answer_questions([found]) if q.name == "compositions").answers
    assert "qcsp was not measured alone" in str(answer.points)


def test_a_control_is_an_operand_too():
    shape = {("random & gsp", "method"): lambda n: True, ("gsp", "method"): lambda n: n % 2 == 0}
    found = exact(shape | {("random", "random"): lambda n: n % 3 == 0})
    [composed] = found.compositions
    assert composed.missing == ()
    assert [one.other for one in composed.differences] == ["random", "gsp"]
    assert composed.beats_each
    assert exact(shape).compositions[0].missing == ("random",)


def test_attention_is_told_by_what_strategies_need(clear, all_findings):
    assert {name for name, structure in clear.structures.items() if structure.attention} == {"fastv"}
    for found in all_findings:
        kinds = found.comparison.headline_kinds
        assert {(one.arm.method, one.kind) for one in found.attention} == {("fastv", kind) for kind in kinds}


def test_a_recipe_nobody_can_read_has_no_anatomy():
    made = Made()
    task = Shapes(pictures=4)
    cell = synthetic.cell(task, "m", "acme", "method", "1/3")
    synthetic.fill(made, task, cell, 0.5)
    [comparison] = collect(made)
    found = make_findings(comparison, default_registry())
    assert found.structures == {}
    [answer] = next(q for q in answer_questions([found]) if q.name == "compositions").answers
    assert "acme" in answer.text


def test_an_alarm_rings_where_the_inverse_does_no_worse(clear, all_findings):
    by = {one.arm.method: one for one in clear.inverses}
    assert by["gsp"].not_shown_better
    assert by["gsp"].inverse_no_worse
    assert not by["script"].not_shown_better
    [answer] = next(q for q in answer_questions([clear]) if q.name == "inverses").answers
    assert answer.alarm
    assert [name for name, _ in answer.points] == ["gsp"]
    for found in all_findings:
        loud = {one.arm.method for one in found.inverses if one.inverse_no_worse}
        assert loud == {"fastv"}


def test_worse_than_the_best_control_is_corrected_too():
    """Methods with the same few answers wrong: one alone is shown to be worse, among many it is not."""
    few = {8, 9, 18, 19, 28, 29, 38}
    alone = {("gsp", "method"): lambda n: n not in few, ("random", "random"): lambda n: True}
    names = [f"m{number}" for number in range(20)]
    many = alone | {(name, "method"): lambda n: n not in few for name in names}
    one = next(one for one in exact(alone).controls if one.arm.method == "gsp")
    among = next(one for one in exact(many).controls if one.arm.method == "gsp")
    assert one.difference.value == among.difference.value < 0
    assert one.difference.p == among.difference.p
    assert among.difference.holm > one.difference.holm
    assert {found.difference.verdict for found in exact(many).controls} == {"open"}


def test_known_truth_is_found(all_findings):
    """Of the made-up study: where the truth is far apart, the verdict is right; nowhere is it the wrong way round."""
    for found in all_findings:
        for one in found.controls:
            method, keep = one.arm.method, one.arm.keep
            if method == "fastv":
                assert one.difference.verdict != "better"
            if method == "script":
                assert one.difference.verdict != "worse"
            if (method, keep) == ("script", "1/18"):
                assert one.difference.verdict == "better"


# ------------------------------------------------------------------------------------------------ from model to model


def test_an_order_is_compared_between_models(made, comparisons):
    found = order_transfers(comparisons)
    assert [(one.first.model, one.second.model, one.keep) for one in found] == [
        ("small-a", "small-b", keep) for keep in SMALL
    ]
    for one in found:
        # `fastv` has another ledger, so it is ranked with none.
        assert set(one.methods) == {"script", "gsp", "qcsp"}
        kinds = set(comparisons[0].headline_kinds) & set(comparisons[1].headline_kinds)
        scores = []
        for model in ("small-a", "small-b"):
            scores.append([])
            for method in one.methods:
                [rows] = rows_of(made, model=model, method=method, keep=one.keep)
                own = [row.correct for row in rows if row.kind in kinds]
                scores[-1].append(sum(own) / len(own))
        assert one.transfer.tau == pytest.approx(kendalltau(*scores).statistic)
        assert one.transfer.low <= one.transfer.tau + 1e-9
        assert one.transfer.pairs == 3


def pair(order, **changes):
    """Two models on which methods have shares of samples right: in an order on one, in another on the other."""
    made = Made()
    task = Shapes(pictures=40)
    for model, shares in order.items():
        for method, share in shares.items():
            cell = replace(synthetic.cell(task, model, method, "method", "1/9"), **changes.get(model, {}))
            synthetic.fill(made, task, cell, 0.5)
            rows = [
                replace(row, correct=float(n * 7 % 200 < 200 * share))
                for n, row in enumerate(made.content[cell.key][1])
            ]
            made.add(cell, rows)
    return collect(made)


CLEAR = {"gsp": 0.9, "script": 0.6, "qcsp": 0.3}
TURNED = {"gsp": 0.3, "script": 0.6, "qcsp": 0.9}


def test_models_agree_or_do_not():
    [alike] = order_transfers(pair({"m": CLEAR, "n": CLEAR}))
    assert (alike.transfer.tau, alike.transfer.low, alike.transfer.high) == pytest.approx((1, 1, 1))
    [opposed] = order_transfers(pair({"m": CLEAR, "n": TURNED}))
    assert (opposed.transfer.tau, opposed.transfer.low, opposed.transfer.high) == pytest.approx((-1, -1, -1))
    assert (opposed.transfer.same, opposed.transfer.opposite) == (0, 3)


def test_samples_are_paired_by_their_names():
    straight = pair({"m": CLEAR, "n": TURNED})
    turned = replace(
        straight[1],
        samples=straight[1].samples[::-1],
        kinds=straight[1].kinds[::-1],
        images=straight[1].images[::-1],
        arms=tuple(
            replace(arm, cells=tuple(_with_sample_order(cell, straight[1].samples[::-1]) for cell in arm.cells))
            for arm in straight[1].arms
        ),
    )
    [one], [other] = order_transfers(straight), order_transfers([straight[0], turned])
    assert one.transfer == other.transfer


def test_only_what_may_be_compared_is():
    assert order_transfers(pair({"m": CLEAR})) == ()
    assert order_transfers(pair({"m": CLEAR, "n": {"gsp": 0.5, "fastv": 0.5}})) == ()
    assert order_transfers(pair({"m": CLEAR, "n": CLEAR}, n={"card_hash": "other"})) == ()
    assert len(order_transfers(pair({"m": CLEAR, "n": CLEAR, "o": TURNED}))) == 3


def test_whether_an_order_carries_over_is_asked_of_several_models_only(all_findings, clear):
    assert [question.name for question in answer_questions([clear])].count("transfer") == 0
    [question] = [question for question in answer_questions(all_findings) if question.name == "transfer"]
    [answer] = question.answers
    assert answer.title == "small-a and small-b on shapes"
    [table] = question.tables
    assert table.columns == SMALL
    [group] = table.groups
    assert group.heading == "small-a and small-b"
    [line] = group.rows
    assert line.label == "3 methods"
    for one, cell in zip(order_transfers([found.comparison for found in all_findings]), line.cells, strict=True):
        assert cell == f"{one.transfer.tau:.2f} [{one.transfer.low:.2f}, {one.transfer.high:.2f}]"
    assert "3 methods: script, gsp, qcsp." in table.notes
    assert to_latex(table).isascii()


def test_what_is_said_of_an_order_that_carries_over():
    def said(order):
        found = [make_findings(one, default_registry()) for one in pair(order)]
        [question] = [question for question in answer_questions(found) if question.name == "transfer"]
        return [answer.text for answer in question.answers]

    assert said({"m": CLEAR, "n": CLEAR}) == [
        "τ is 1.00. Of 3 pairs of methods (over all budgets), both models tell 3 apart, "
        "and all of these are in the same order."
    ]
    assert said({"m": CLEAR, "n": TURNED}) == [
        "τ is -1.00. Of 3 pairs of methods (over all budgets), both models tell 3 apart, "
        "and 3 of these are turned around."
    ]
    same = dict.fromkeys(CLEAR, 0.5)
    assert said({"m": same, "n": CLEAR}) == [
        "τ is not known. Of 3 pairs of methods (over all budgets), both models tell none apart."
    ]


def test_questions_are_answered_for_every_comparison(all_findings):
    asked = answer_questions(all_findings)
    assert len({question.name for question in asked}) == len(asked) == 9
    for question in asked:
        if question.name != "transfer":
            assert [answer.title for answer in question.answers] == [found.comparison.title for found in all_findings]
        assert all(answer.text for answer in question.answers)
    certainty = asked[-1].answers[0].text
    assert "120 questions on 24 pictures" in certainty
    assert "count is left out of the headline" in certainty


def test_without_controls_the_report_says_so():
    found = exact({("gsp", "method"): lambda n: True})
    texts = {question.name: question.answers[0].text for question in answer_questions([found])}
    assert "no control was measured" in texts["best-control"]
    assert "uniform and random were not both measured" in texts["plain"]
    assert texts["inverses"] == "No inverted score was measured."
    assert texts["order"] == "There is nothing to rank."


def test_one_picture_says_nothing_of_others():
    made = Made()
    task = Shapes(pictures=1)
    for method, role in (("gsp", "method"), ("random", "random"), ("unpruned", "unpruned")):
        keep = None if role == "unpruned" else "1/3"
        synthetic.fill(made, task, synthetic.cell(task, "m", method, role, keep), 0.5)
    [comparison] = collect(made)
    found = make_findings(comparison, default_registry())
    interval = comparison.interval(comparison.find_arm("gsp", "1/3"))
    assert (interval.low, interval.high) == (0, 1)
    assert [one.difference.verdict for one in found.controls] == ["open"]
    assert found.detectable is None
    assert len(answer_questions([found])) == 7


def test_the_relative_average_is_the_mean_of_ratios(made, comparisons):
    [first, _] = comparisons
    [whole] = rows_of(made, model="small-a", role="unpruned")
    [own] = rows_of(made, model="small-a", method="script", keep="1/9")
    ratios = []
    for kind in first.headline_kinds:
        full = [row.correct for row in whole if row.kind == kind]
        pruned = [row.correct for row in own if row.kind == kind]
        ratios.append((sum(pruned) / len(pruned)) / (sum(full) / len(full)))
    assert relative(first, first.find_arm("script", "1/9")) == pytest.approx(sum(ratios) / len(ratios))
