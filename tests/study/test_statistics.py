"""Statistics keep what they promise on data whose truth is known, agree with other code, and obey their laws.

Simulations are seeded, and their bounds are binomial: a right procedure leaves them once in a thousand seeds.
"""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar as other_mcnemar
from statsmodels.stats.multitest import multipletests

from tokensieve.errors import StudyError
from tokensieve.study import statistics as s
from tokensieve.study.statistics.design import replicates
from tokensieve.study.statistics.intervals import bound

# ------------------------------------------------------------------------------------- data of known truth


def pictures(*sizes):
    """A label a question: how many each picture has."""
    return [f"picture {number}" for number, size in enumerate(sizes) for _ in range(size)]


def right(random, simulations, clusters, accuracy, rho):
    """`[simulations, n]` right and wrong answers; two of one picture correlate by rho."""
    codes = np.unique(clusters, return_inverse=True)[1]
    shape = (simulations, codes.max() + 1)
    each = np.full(shape, accuracy)
    if rho:
        each = random.beta(accuracy * (1 - rho) / rho, (1 - accuracy) * (1 - rho) / rho, shape)
    return (random.random((simulations, len(codes))) < each[:, codes]).astype(float)


def pairs(random, simulations, clusters, wins, losses, rho=0.0):
    """Two methods' answers `[simulations, n]`: a part `wins` only the first has right, `losses` only the second."""
    codes = np.unique(clusters, return_inverse=True)[1]
    parts = np.array([wins, losses, (1 - wins - losses) / 2, (1 - wins - losses) / 2])
    shape = (simulations, codes.max() + 1)
    each = random.dirichlet(parts * (1 - rho) / rho, shape) if rho else np.broadcast_to(parts, (*shape, 4))
    drawn = (random.random((simulations, len(codes), 1)) > each.cumsum(axis=2)[:, codes, :3]).sum(axis=2)
    return np.isin(drawn, (0, 2)).astype(float), np.isin(drawn, (1, 2)).astype(float)


def expected(simulations, part, miss=0.001):
    """How often something of probability `part` happens, as a part of the simulations: the bounds of chance."""
    low, high = scipy.stats.binom.ppf([miss / 2, 1 - miss / 2], simulations, part) / simulations
    return low, high


def covered(intervals, truth):
    return float(np.mean([one.low <= truth <= one.high for one in intervals]))


def quick(clusters=None, kinds=None, resamples=999, **other):
    return s.Design(clusters=clusters, kinds=kinds, resamples=resamples, **other)


UNEVEN = pictures(*([1, 3, 8] * 27))
"""81 pictures with 324 questions: some with one, some with eight."""

# ----------------------------------------------------------------------------------------------- intervals


@pytest.mark.parametrize(("accuracy", "rho"), [(0.5, 0.0), (0.6, 0.3), (0.9, 0.05)])
def test_intervals_of_accuracy_cover_the_truth(accuracy, rho):
    answers = right(np.random.default_rng(1), 1000, UNEVEN, accuracy, rho)
    low, high = expected(1000, 0.95)
    assert low <= covered(s.score_intervals(answers, quick(UNEVEN)), accuracy) <= high


@pytest.mark.parametrize(("wins", "losses", "rho"), [(0.1, 0.1, 0.1), (0.15, 0.05, 0.3), (0.03, 0.03, 0.0)])
def test_intervals_of_differences_cover_the_truth(wins, losses, rho):
    one, other = pairs(np.random.default_rng(2), 1000, UNEVEN, wins, losses, rho)
    low, high = expected(1000, 0.95)
    assert low <= covered(s.difference_intervals(one, other, quick(UNEVEN)), wins - losses) <= high


def test_taking_questions_on_one_picture_for_independent_covers_too_little():
    one, other = pairs(np.random.default_rng(3), 1000, UNEVEN, 0.15, 0.1, 0.4)
    low, _ = expected(1000, 0.95)
    assert covered(s.difference_intervals(one, other, quick(UNEVEN)), 0.05) >= low
    assert covered(s.difference_intervals(one, other, quick()), 0.05) < low - 0.1


def test_few_pictures_are_covered_where_plain_percentiles_are_not():
    few = pictures(*([4] * 10))
    answers = right(np.random.default_rng(4), 1000, few, 0.5, 0.2)
    low, high = expected(1000, 0.95)
    assert low <= covered(s.score_intervals(answers, quick(few)), 0.5) <= high
    ends = np.quantile(replicates(answers, quick(few), None), [0.025, 0.975], axis=0)
    assert np.mean((ends[0] <= 0.5) & (ends[1] >= 0.5)) < low


@pytest.mark.parametrize("accuracy", [0.97, 0.995])
def test_nearly_perfect_methods_are_covered_where_plain_percentiles_are_not(accuracy):
    answers = right(np.random.default_rng(5), 1000, pictures(*[1] * 50), accuracy, 0)
    low, _ = expected(1000, 0.95)
    assert covered(s.score_intervals(answers, quick()), accuracy) >= low
    ends = np.quantile(replicates(answers, quick(), None), [0.025, 0.975], axis=0)
    assert np.mean((ends[0] <= accuracy) & (ends[1] >= accuracy)) < low


def test_no_difference_seen_is_no_certainty():
    (alike,) = s.difference_intervals(np.ones((1, 50)), np.ones(50), quick())
    assert alike.low < -0.01
    assert alike.high > 0.01
    assert alike.verdict == "unclear"
    (more,) = s.difference_intervals(np.ones((1, 500)), np.ones(500), quick())
    assert more.high < alike.high / 5


@pytest.mark.parametrize("rho", [0.0, 0.3])
def test_intervals_of_ratios_cover_the_truth(rho):
    one, other = pairs(np.random.default_rng(31), 600, UNEVEN, 0.05, 0.15, rho)
    # The second is right where neither or only it is: 0.4 + 0.15; the first 0.4 + 0.05.
    truth = 0.45 / 0.55
    found = [s.ratio_intervals([(each[None], base, quick(UNEVEN))])[0] for each, base in zip(one, other, strict=True)]
    low, high = expected(600, 0.95)
    assert low <= covered(found, truth) <= high


def test_intervals_of_a_mean_over_benchmarks_cover_the_truth():
    random, benchmarks = np.random.default_rng(32), []
    for wins, losses in ((0.05, 0.15), (0.1, 0.05), (0.02, 0.2)):
        benchmarks.append((*pairs(random, 400, UNEVEN, wins, losses, 0.1), wins, losses))
    truth = np.mean([(1 + wins - losses) / (1 - wins + losses) for *_, wins, losses in benchmarks])
    found = [
        s.ratio_intervals([(one[at][None], other[at], quick(UNEVEN)) for one, other, *_ in benchmarks])[0]
        for at in range(400)
    ]
    low, high = expected(400, 0.95)
    assert low <= covered(found, truth) <= high


def test_a_ratio_is_that_of_a_loop():
    random = np.random.default_rng(33)
    parts = []
    for clusters in (list("aabbcd"), list("wwxyyz")):
        kinds = [random.choice(["k", "l"]) for _ in clusters[:-2]] + ["k", "l"]
        scores = random.random((2, 6)) / 2 + 0.4
        parts.append((scores, random.random(6) / 2 + 0.5, s.Design(clusters, kinds, resamples=20)))
    looped = np.zeros((20, 2))
    estimates = np.zeros(2)
    for seed, (scores, base, design) in enumerate(parts):
        names, kinds = sorted(set(design.clusters)), sorted(set(design.kinds))
        draws = np.random.default_rng(seed).integers(0, 6, (20, 6))

        def mean(method, kind, drawn, scores=scores, base=base, design=design, names=names, kinds=kinds):
            row = base if method is None else scores[method]
            held, weights = [], []
            for cluster in drawn:
                if cluster >= len(names):
                    # Of the two added pictures, only the base is wrong on the first, only the method on the second.
                    held.append(float((method is None) == (cluster == len(names) + 1)))
                    weights.append(1 / len(kinds))
                    continue
                for sample, (own, sort) in enumerate(zip(design.clusters, design.kinds, strict=True)):
                    if own == names[cluster] and sort == kind:
                        held.append(row[sample])
                        weights.append(1.0)
            observed = [x for x, sort in zip(row, design.kinds, strict=True) if sort == kind]
            return np.average(held, weights=weights) if held else np.mean(observed)

        for method in (0, 1):
            for row in range(20):
                ratios = [mean(method, kind, draws[row]) / mean(None, kind, draws[row]) for kind in kinds]
                looped[row, method] += np.mean(ratios) / 2
            whole = [mean(method, kind, range(4)) / mean(None, kind, range(4)) for kind in kinds]
            estimates[method] += np.mean(whole) / 2
    tail = scipy.stats.norm.cdf(-math.sqrt(4 / 3) * scipy.stats.t.ppf(0.975, 3))
    for one, column, estimate in zip(s.ratio_intervals(parts), looped.T, estimates, strict=True):
        place = max(0.0, tail * 21 - 1)
        assert one.estimate == pytest.approx(estimate)
        assert one.low == pytest.approx(np.interp(place, range(20), np.sort(column)))
        assert one.high == pytest.approx(np.interp(19 - place, range(20), np.sort(column)))


def test_a_ratio_to_what_may_be_nothing_has_no_interval():
    right_once = np.array([1.0, *[0.0] * 9])
    assert s.ratio_intervals([(GOOD, np.zeros(4), s.Design())]) is None
    assert s.ratio_intervals([(np.ones((1, 10)), right_once, quick(kinds=["a"] * 5 + ["b"] * 5))]) is None
    assert s.ratio_intervals([(np.ones((1, 10)), np.ones(10), quick())])[0].estimate == 1


def test_kinds_weigh_alike_however_many_questions_they_have():
    kinds = (["color"] * 6 + ["count"] * 2) * 40
    clusters = pictures(*[8] * 40)
    random = np.random.default_rng(6)
    hard = np.array(kinds) == "count"
    answers = np.where(hard, right(random, 1000, clusters, 0.4, 0.1), right(random, 1000, clusters, 0.9, 0.1))
    low, high = expected(1000, 0.95)
    assert low <= covered(s.score_intervals(answers, quick(clusters, kinds)), 0.65) <= high
    assert covered(s.score_intervals(answers, quick(clusters)), 0.65) < 0.2
    assert covered(s.score_intervals(answers, quick(clusters)), 0.775) >= low


def test_a_kind_that_a_resample_lost_keeps_its_mean():
    scores = np.array([[1.0, 1.0, 0.0, 1.0, 0.0]])
    drawn = replicates(scores, quick(kinds=list("aaaab")), None)
    # The one question of kind b is wrong, so b adds nothing, drawn or not.
    assert drawn.max() == 0.5


def test_intervals_of_many_differences_hold_together():
    random, clusters, simulations = np.random.default_rng(7), pictures(*[3] * 50), 250
    apart, together, unadjusted, adjusted = [], [], [], []
    for _ in range(simulations):
        easy = random.normal(size=150)
        base, *methods = (easy + random.normal(size=(8, 150)) + random.normal(size=(8, 50)).repeat(3, axis=1) > 0) * 1.0
        for found, simultaneous in ((apart, False), (together, True)):
            intervals = s.difference_intervals(methods, base, quick(clusters, resamples=699), simultaneous=simultaneous)
            found.append(all(one.verdict == "unclear" for one in intervals))
        p_values = s.sign_flip(methods, base, quick(clusters, resamples=699))
        unadjusted.append(min(p_values) <= 0.05)
        adjusted.append(min(s.holm(p_values)) <= 0.05)
    (low, _), (_, high) = expected(simulations, 0.95), expected(simulations, 0.05)
    assert np.mean(together) >= low > np.mean(apart)
    assert np.mean(adjusted) <= high < np.mean(unadjusted)


def test_the_bootstrap_is_the_one_that_loops_write_down():
    random = np.random.default_rng(8)
    clusters, kinds = pictures(2, 3, 1, 4), list("ababbabaab")
    scores = random.random((2, 10))
    design = s.Design(clusters, kinds, resamples=50, seed=3)
    names, drawn = sorted(set(clusters)), np.random.default_rng(3).integers(0, 6, (50, 6))
    looped = np.empty((50, 2))
    for row, method in itertools.product(range(50), range(2)):
        means = []
        for kind in "ab":
            held, weights = [], []
            for cluster in drawn[row]:
                if cluster >= 4:
                    held.append(float(cluster - 4))
                    weights.append(0.5)
                    continue
                for sample in range(10):
                    if clusters[sample] == names[cluster] and kinds[sample] == kind:
                        held.append(scores[method, sample])
                        weights.append(1.0)
            observed = [x for x, own in zip(scores[method], kinds, strict=True) if own == kind]
            means.append(np.average(held, weights=weights) if held else np.mean(observed))
        looped[row, method] = np.mean(means)
    np.testing.assert_allclose(replicates(scores, design, (0.0, 1.0)), looped)
    found = s.score_intervals(scores, design)
    tail = scipy.stats.norm.cdf(-math.sqrt(4 / 3) * scipy.stats.t.ppf(0.975, 3))
    for one, column in zip(found, looped.T, strict=True):
        place = max(0.0, tail * 51 - 1)
        assert one.low == pytest.approx(np.interp(place, range(50), np.sort(column)))
        assert one.high == pytest.approx(np.interp(49 - place, range(50), np.sort(column)))


def test_resampling_in_parts_is_resampling_at_once(monkeypatch):
    scores = np.random.default_rng(9).random((3, 40))
    whole = replicates(scores, quick(resamples=100), (0.0, 1.0))
    monkeypatch.setattr("tokensieve.study.statistics.design._COUNTS_AT_ONCE", 42 * 7)
    np.testing.assert_allclose(replicates(scores, quick(resamples=100), (0.0, 1.0)), whole)


# ------------------------------------------------------------------------------------------- paired tests


def test_mcnemar_is_as_large_as_it_says():
    random, simulations = np.random.default_rng(10), 2000
    found = [s.mcnemar(*both) for both in zip(*pairs(random, simulations, range(150), 0.08, 0.08), strict=True)]
    exact, mid = (np.mean([getattr(one, name) <= 0.05 for one in found]) for name in ("exact", "mid"))
    _, high = expected(simulations, 0.05)
    assert exact < mid <= high
    # The mid-p value's point: it spends nearly all of the error that is allowed.
    assert mid >= 0.035


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (5, 5), (9, 2), (3, 14), (40, 61)])
def test_mcnemar_agrees_with_others(wins, losses):
    one = np.repeat([1, 0, 1, 0], [wins, losses, 7, 4])
    other = np.repeat([0, 1, 1, 0], [wins, losses, 7, 4])
    found = s.mcnemar(one, other)
    assert (found.wins, found.losses) == (wins, losses)
    assert found.exact == pytest.approx(other_mcnemar([[7, wins], [losses, 4]], exact=True).pvalue)
    if wins + losses:
        assert found.exact == pytest.approx(scipy.stats.binomtest(wins, wins + losses).pvalue)
    both = wins + losses
    uneven = abs(wins - losses)
    chances = {k: math.comb(both, k) / 2**both for k in range(both + 1)}
    further = sum(part for k, part in chances.items() if abs(both - 2 * k) > uneven)
    as_far = sum(part for k, part in chances.items() if abs(both - 2 * k) == uneven)
    assert found.mid == pytest.approx(further + as_far / 2)


def test_flips_of_signs_by_picture_are_as_large_as_they_say():
    one, other = pairs(np.random.default_rng(11), 1000, UNEVEN, 0.12, 0.12, 0.4)
    low, high = expected(1000, 0.05)
    assert low <= np.mean(np.array(s.sign_flip(one, other, quick(UNEVEN))) <= 0.05) <= high
    assert np.mean(np.array(s.sign_flip(one, other, quick())) <= 0.05) > high + 0.05
    assert low <= np.mean(np.array(s.sign_flip(one, other, quick(UNEVEN), "greater")) <= 0.05) <= high


def test_all_flips_are_tried_where_they_are_few():
    random = np.random.default_rng(12)
    clusters, kinds = pictures(1, 2, 2, 3, 1, 2), list("abaabbbabaa")
    scores, base = random.integers(0, 3, (3, 11)) / 2, random.integers(0, 3, 11) / 2
    weight = {kind: 1 / (2 * kinds.count(kind)) for kind in "ab"}
    for alternative, size in (("two-sided", abs), ("greater", float)):
        found = s.sign_flip(scores, base, quick(clusters, kinds), alternative)
        for method, p in zip(scores, found, strict=True):
            sums = dict.fromkeys(clusters, 0.0)
            for cluster, kind, one, other in zip(clusters, kinds, method, base, strict=True):
                sums[cluster] += weight[kind] * (one - other)
            observed = size(sum(sums.values()))
            flips = [
                size(sum(sign * one for sign, one in zip(signs, sums.values(), strict=True)))
                for signs in itertools.product((1, -1), repeat=len(sums))
            ]
            assert p == pytest.approx(np.mean([flip >= observed - 1e-12 for flip in flips]))


def test_a_p_value_from_drawn_flips_is_never_zero():
    assert s.sign_flip(np.ones((1, 100)), np.zeros(100), quick(resamples=99)) == (0.01,)


def test_flips_of_single_questions_are_mcnemars_exact_test():
    one, other = pairs(np.random.default_rng(13), 20, range(60), 0.1, 0.05)
    exact = [s.mcnemar(*both).exact for both in zip(one, other, strict=True)]
    few = np.count_nonzero(one != other, axis=1) <= 8
    assert 0 < few.sum() < 20
    found = np.array(s.sign_flip(one, other, quick(resamples=2**8)))
    assert found[few] == pytest.approx(np.array(exact)[few])
    # Where not all flips are tried, random ones come near.
    drawn = np.array(s.sign_flip(one, other, quick(resamples=2000)))
    assert drawn == pytest.approx(exact, abs=0.04)


def test_holm_agrees_with_others():
    random = np.random.default_rng(29)
    for p_values in ([0.01, 0.04, 0.03, 0.005], [0.02], [0.5, 0.5, 0.5], random.random(12) ** 4):
        assert s.holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert s.holm([]) == ()


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_keeps_the_order_and_makes_nothing_smaller(p_values):
    found = s.holm(p_values)
    assert all(given <= adjusted <= min(1, given * len(found)) for given, adjusted in zip(p_values, found, strict=True))
    by_p = [adjusted for _, adjusted in sorted(zip(p_values, found, strict=True))]
    assert by_p == sorted(by_p)


# -------------------------------------------------------------------------------------------------- laws


@st.composite
def paired_scores(draw, whole=False):
    """Two methods' scores and pictures of 2 to 12 samples, in at least two pictures."""
    count = draw(st.integers(2, 12))
    score = st.sampled_from([0.0, 1.0] if whole else [0.0, 1 / 3, 2 / 3, 1.0])
    one, other = (np.array(draw(st.lists(score, min_size=count, max_size=count))) for _ in range(2))
    labels = draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    labels[:2] = 0, 1
    kinds = draw(st.lists(st.sampled_from("ab"), min_size=count, max_size=count))
    return one, other, labels, kinds, draw(st.permutations(range(count)))


@given(paired_scores())
def test_the_order_of_samples_does_not_matter(data):
    one, other, labels, kinds, order = data
    found, again = (
        (
            s.difference_intervals([one[at]], other[at], design)[0],
            s.sign_flip([one[at]], other[at], design),
            s.design_effect(one[at] - other[at], design),
        )
        for at in (list(range(len(order))), list(order))
        for design in [quick([labels[i] for i in at], [kinds[i] for i in at], resamples=99)]
    )
    assert [found[0].estimate, found[0].low, found[0].high] == pytest.approx(
        [again[0].estimate, again[0].low, again[0].high]
    )
    assert found[1:] == (pytest.approx(again[1]), pytest.approx(again[2]))


def test_the_order_of_samples_does_not_matter_to_the_last_bit():
    # Differences of a picture that add up to nothing, but for a last bit whose sign is the order's.
    ends = []
    for first in ([9, 8, -8, -9], [-8, -9, 9, 8]):
        differences = np.array([*first, 4, -2, 7, 1]) / 10
        design = quick([0] * len(first) + [1, 1, 2, 3], resamples=99)
        (found,) = s.difference_intervals([differences.clip(0)], (-differences).clip(0), design)
        ends.append((found.low, found.high))
    assert ends[0] == pytest.approx(ends[1])


@given(paired_scores(whole=True))
def test_mcnemar_does_not_know_order_and_turns_with_its_arguments(data):
    one, other, _, _, order = data
    found, turned = s.mcnemar(one, other), s.mcnemar(other[list(order)], one[list(order)])
    assert (found.wins, found.losses, found.exact, found.mid) == (turned.losses, turned.wins, turned.exact, turned.mid)


@given(paired_scores())
def test_a_difference_turned_around_changes_its_sign(data):
    one, other, labels, kinds, _ = data
    design = quick(labels, kinds, resamples=99)
    (found,), (turned,) = s.difference_intervals([one], other, design), s.difference_intervals([other], one, design)
    assert found.estimate == pytest.approx(-turned.estimate)
    moved = dict.fromkeys(zip(labels, kinds, strict=True), 0.0)
    for label, kind, difference in zip(labels, kinds, one - other, strict=True):
        moved[label, kind] += difference
    # Of no difference at all, both intervals are the same draws of nothing.
    if any(abs(difference) > 1e-9 for difference in moved.values()):
        assert [found.low, found.high] == pytest.approx([-turned.high, -turned.low])
    assert s.sign_flip([one], other, design) == s.sign_flip([other], one, design)


@given(paired_scores(), st.sampled_from([0.5, 0.8, 0.95, 0.99]))
def test_an_interval_is_around_its_estimate_and_inside_the_possible(data, level):
    one, other, labels, kinds, _ = data
    design = quick(labels, kinds, resamples=199, level=level)
    (score,), (difference,) = s.score_intervals([one], design), s.difference_intervals([one], other, design)
    assert 0 <= score.low <= score.high <= 1
    assert -1 <= difference.low <= difference.high <= 1
    if level >= 0.95:
        assert score.low <= score.estimate <= score.high
        assert difference.low <= difference.estimate <= difference.high


# ---------------------------------------------------------------------------------------------- controls


def test_the_best_of_equal_controls_is_no_harder_to_beat_and_no_easier():
    random, clusters, simulations = np.random.default_rng(14), pictures(*[3] * 50), 200
    design = quick(clusters, resamples=499)
    honest, bootstrapped, beaten = [], [], []
    for _ in range(simulations):
        hard = random.normal(size=50).repeat(3) / 2 + random.normal(size=150) / 2
        answers = (hard + random.normal(size=(8, 150)) > 0) * 1.0
        found = s.against_best(answers[:3], answers[3:], design)
        honest.append(all(one.difference.low <= 0 <= one.difference.high for one in found))
        beaten.append(min(one.p_holm for one in found) <= 0.05)
        drawn = replicates(answers, design, None)
        least = (drawn[:, :1] - drawn[:, 3:]).min(axis=1, keepdims=True)
        bootstrapped.append(bound(least, 0.025, 50)[0] <= 0 <= -bound(-least, 0.025, 50)[0])
    (low, _), (_, high) = expected(simulations, 0.95), expected(simulations, 0.05)
    assert np.mean(honest) >= low
    assert np.mean(beaten) <= high
    # What one would do first, the largest control of each resample, is wrong every fifth time, of one method alone.
    assert np.mean(bootstrapped) < low


def test_a_method_is_compared_with_its_best_control():
    random = np.random.default_rng(15)
    clusters = pictures(*[2] * 150)
    accuracies = [0.9, 0.62, 0.3, 0.5, 0.6, 0.4]
    better, alike, worse, *controls = (right(random, 1, clusters, p, 0.1)[0] for p in accuracies)
    found = s.against_best([better, alike, worse], controls, quick(clusters))
    assert [one.control for one in found] == [1, 1, 1]
    assert [one.difference.verdict for one in found] == ["better", "unclear", "worse"]
    assert found[0].difference.estimate == pytest.approx(better.mean() - controls[1].mean())
    assert found[0].p_holm < 0.01 < 0.9 < found[2].p
    assert [one.p_holm for one in found] == list(s.holm([one.p for one in found]))


def test_with_one_method_and_one_control_it_is_the_paired_comparison():
    one, other = pairs(np.random.default_rng(16), 1, UNEVEN, 0.2, 0.1, 0.1)
    (found,) = s.against_best(one, other, quick(UNEVEN))
    (plain,) = s.difference_intervals(one, other, quick(UNEVEN))
    assert found.difference == plain
    assert (found.p,) == s.sign_flip(one, other, quick(UNEVEN), "greater")


def test_an_inverse_that_is_not_worse_raises_the_alarm():
    for wins, losses, raised, certain in ((0.3, 0.05, 0, 0), (0.15, 0.15, 0.975, 0.025), (0.05, 0.3, 1, 1)):
        one, other = pairs(np.random.default_rng(17), 300, range(150), wins, losses)
        found = [s.inverse_alarm(*both, quick(resamples=299)) for both in zip(one, other, strict=True)]
        for name, part in (("raised", raised), ("certain", certain)):
            low, high = expected(300, part)
            assert low <= np.mean([getattr(alarm, name) for alarm in found]) <= high, (wins, name)


# ------------------------------------------------------------------------------------------------- power


@pytest.mark.parametrize(("samples", "discordance"), [(300, 0.2), (800, 0.1)])
def test_the_smallest_detectable_difference_is_found_four_times_of_five(samples, discordance):
    difference = s.detectable(samples, discordance)
    wins = (discordance + difference) / 2
    both = pairs(np.random.default_rng(18), 1000, range(samples), wins, discordance - wins)
    found = np.mean([s.mcnemar(*one).mid <= 0.05 for one in zip(*both, strict=True)])
    low, high = expected(1000, 0.8)
    assert low <= found <= high


def test_the_design_effect_makes_power_right_for_pictures_with_many_questions():
    clusters, rho, discordance = pictures(*[6] * 100), 0.3, 0.2
    effect = 1 + 5 * rho
    random = np.random.default_rng(19)
    low, high = expected(1000, 0.8)
    found = {}
    for name, assumed in (("clusters", effect), ("none", 1.0)):
        difference = s.detectable(600, discordance, design_effect=assumed)
        wins = (discordance + difference) / 2
        one, other = pairs(random, 1000, clusters, wins, discordance - wins, rho)
        found[name] = np.mean(np.array(s.sign_flip(one, other, quick(clusters))) <= 0.05)
        if name == "clusters":
            measured = np.mean([s.design_effect(row, quick(clusters)) for row in (one - other)[:200]])
            assert measured == pytest.approx(effect, rel=0.05)
    assert low <= found["clusters"] <= high
    assert found["none"] < low


@given(st.integers(50, 5000), st.floats(0.02, 1), st.floats(0.5, 0.95), st.floats(1, 4), st.integers(1, 20))
def test_samples_needed_and_difference_detectable_are_inverse(samples, discordance, power, effect, comparisons):
    given = {"power": power, "design_effect": effect, "comparisons": comparisons}
    difference = s.detectable(samples, discordance, **given)
    if difference is not None:
        assert difference <= discordance
        assert s.samples_needed(difference, discordance, **given) in (samples, samples + 1)
        wider = s.detectable(2 * samples, discordance, **given)
        assert wider is not None
        assert wider < difference


def test_what_cannot_be_detected():
    assert s.detectable(1000, 0) is None
    # Three samples that differ are never enough, whichever way they go: 2 * 1/8 > 0.05.
    assert s.detectable(100, 0.03) is None


def test_the_smallest_difference_of_a_study():
    one, other = pairs(np.random.default_rng(20), 1, UNEVEN, 0.15, 0.05, 0.3)
    found = s.smallest_difference(one[0], other[0], quick(UNEVEN), comparisons=5)
    effect = s.design_effect(one[0] - other[0], quick(UNEVEN))
    assert found.discordance == np.mean(one != other)
    assert found.design_effect == effect > 1.2
    assert found.difference == s.detectable(324, found.discordance, design_effect=effect, comparisons=5)
    assert s.design_effect(np.zeros(324), quick(UNEVEN)) == 1.0


# ------------------------------------------------------------------------------------------------- ranks


def test_ranks_that_methods_may_truly_have():
    random, simulations = np.random.default_rng(21), 150
    accuracies, ranks = (0.8, 0.6, 0.55, 0.3), (1, 2, 3, 4)
    inside = []
    for _ in range(simulations):
        answers = np.array([right(random, 1, range(120), p, 0)[0] for p in accuracies])
        found = s.rank_intervals(answers, quick(resamples=399))
        inside.append(all(one.low <= rank <= one.high for one, rank in zip(found, ranks, strict=True)))
        shares = np.array([one.shares for one in found])
        assert shares.sum(axis=0) == pytest.approx(np.ones(4))
        assert shares.sum(axis=1) == pytest.approx(np.ones(4))
    assert np.mean(inside) >= expected(simulations, 0.95)[0]
    assert (found[0].low, found[0].high, found[3].low, found[3].high) == (1, 1, 4, 4)
    assert (found[1].low, found[1].high) == (2, 3)


def test_no_order_is_found_among_many_equal_methods():
    random, simulations = np.random.default_rng(31), 150
    found = [s.rank_intervals(right(random, 7, range(100), 0.6, 0), quick(resamples=499)) for _ in range(simulations)]
    assert np.mean([any((one.low, one.high) != (1, 7) for one in ranks) for ranks in found]) <= expected(150, 0.05)[1]


def test_equal_methods_share_their_places():
    found = s.rank_intervals(np.tile(right(np.random.default_rng(22), 1, range(40), 0.5, 0), (3, 1)), quick())
    assert [(one.rank, one.low, one.high) for one in found] == [(2, 1, 3)] * 3
    assert found[0].shares == pytest.approx((1 / 3, 1 / 3, 1 / 3))


def test_wins_ties_and_losses_over_blocks():
    random = np.random.default_rng(23)

    def block(*accuracies, samples=300):
        return [right(random, 1, range(samples), p, 0)[0] for p in accuracies], quick(resamples=499)

    found = s.win_tie_loss([block(0.9, 0.5, 0.5), block(0.9, 0.5, 0.3), block(0.9, 0.5, 0.5), block(0.5, 0.5, 0.5)])
    assert found.wins == ((0, 3, 3), (0, 0, 1), (0, 0, 0))
    assert found.losses == ((0, 0, 0), (3, 0, 0), (3, 1, 0))
    assert found.ties == ((4, 1, 1), (1, 4, 3), (1, 3, 4))


def test_agreement_is_friedmans_statistic_scaled():
    random = np.random.default_rng(24)
    for values in (random.random((5, 6)), random.integers(0, 3, (4, 7)).astype(float)):
        found = s.agreement(values)
        judges, methods = values.shape
        assert found.w == pytest.approx(scipy.stats.friedmanchisquare(*values.T).statistic / (judges * (methods - 1)))
    order = np.arange(5.0)
    alike = s.agreement([order, order * 2, order + 1])
    assert (alike.w, alike.tau, alike.judges, alike.methods) == (1.0, pytest.approx(1.0), 3, 5)
    assert s.agreement([order, -order]).tau == pytest.approx(-1)
    assert s.agreement([order, -order]).w == pytest.approx(0)
    assert s.agreement([order, np.zeros(5)]).tau is None


TRUTHS = (0.85, 0.7, 0.68, 0.4)


@pytest.mark.parametrize(
    "others", [(0.8, 0.62, 0.6, 0.35), (0.7, 0.72, 0.3, 0.5), (0.3, 0.5, 0.52, 0.9), (0.8, 0.5, 0.5, 0.7)]
)
def test_how_far_two_models_truly_agree_is_inside(others):
    random, simulations = np.random.default_rng(33), 150
    truth = scipy.stats.kendalltau(TRUTHS, others)[0]
    inside = []
    for _ in range(simulations):
        one, other = ([right(random, 1, range(120), p, 0)[0] for p in each] for each in (TRUTHS, others))
        found = s.transfer(one, other, quick(resamples=399))
        assert found.tau == pytest.approx(scipy.stats.kendalltau(np.mean(one, axis=1), np.mean(other, axis=1))[0])
        assert found.low - 1e-9 <= found.tau <= found.high + 1e-9
        inside.append(found.low - 1e-9 <= truth <= found.high + 1e-9)
    assert np.mean(inside) >= expected(simulations, 0.95)[0]


def test_of_equal_methods_no_pair_is_told_apart():
    random, simulations = np.random.default_rng(34), 150
    told = 0
    for _ in range(simulations):
        one, other = (right(random, 6, range(100), 0.6, 0) for _ in range(2))
        found = s.transfer(one, other, quick(resamples=499))
        told += found.low > -1 or found.high < 1
        assert found.pairs == 15
    assert told / simulations <= expected(simulations, 0.05)[1]


def test_pairs_that_both_models_tell_apart_are_counted():
    rows = np.arange(400) / 400
    first = np.array([rows < part for part in (0.9, 0.6, 0.3, 0.3)]) * 1.0
    second = np.array([rows < part for part in (0.9, 0.3, 0.6, 0.6)]) * 1.0
    found = s.transfer(first, second)
    assert (found.same, found.opposite, found.pairs) == (3, 2, 6)
    assert (found.low, found.high) == (pytest.approx(0), pytest.approx(1 / 3))
    # By hand: three pairs alike, two opposed, and one equal in both.
    assert found.tau == pytest.approx(1 / 5)
    turned = s.transfer(first, 1 - second)
    assert (turned.same, turned.opposite, turned.tau) == (2, 3, pytest.approx(-1 / 5))
    flat = s.transfer(first, np.ones_like(second))
    assert (flat.tau, flat.low, flat.high, flat.same, flat.opposite) == (None, -1, 1, 0, 0)


def test_models_that_answer_alike_on_the_same_pictures_are_drawn_together():
    """With eight questions a picture less is told apart than if they were independent."""
    random = np.random.default_rng(35)
    both = pictures(*([8] * 12))
    one, other = (np.array([right(random, 1, both, p, 0.5)[0] for p in (0.75, 0.5, 0.3)]) for _ in range(2))
    by_picture, alone = s.transfer(one, other, quick(both)), s.transfer(one, other, quick())
    assert by_picture.same < alone.same


def test_friedman_agrees_with_others():
    random = np.random.default_rng(30)
    for values in (random.random((9, 4)), random.integers(0, 3, (12, 5)).astype(float)):
        found, other = s.friedman(values), scipy.stats.friedmanchisquare(*values.T)
        blocks, methods = values.shape
        assert (found.statistic, found.p) == pytest.approx((other.statistic, other.pvalue))
        ratio = (blocks - 1) * other.statistic / (blocks * (methods - 1) - other.statistic)
        assert found.p_f == pytest.approx(scipy.stats.f.sf(ratio, methods - 1, (methods - 1) * (blocks - 1)))
        assert found.ranks == pytest.approx(scipy.stats.rankdata(-values, axis=1).mean(axis=0))
        assert found.difference == s.critical_difference(methods, blocks)
        assert found.groups == s.groups(found.ranks, found.difference)


def test_critical_differences_and_groups_as_published():
    # Demšar (2006), section 3.2.4: four methods on fourteen data sets, told apart at 10 % and not at 5 %.
    ranks = (3.143, 2.000, 2.893, 1.964)
    assert s.critical_difference(4, 14) == pytest.approx(1.25, abs=5e-3)
    assert s.critical_difference(4, 14, 0.10) == pytest.approx(1.12, abs=5e-3)
    assert s.groups(ranks, 1.25) == ((3, 1, 2, 0),)
    assert s.groups(ranks, 1.12) == ((3, 1, 2), (2, 0))


@pytest.mark.parametrize(
    ("alpha", "published"),
    [
        (0.05, [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]),
        (0.10, [1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920]),
    ],
)
def test_critical_values_are_those_of_the_published_table(alpha, published):
    found = [s.critical_difference(k, 1, alpha) / math.sqrt(k * (k + 1) / 6) for k in range(2, 11)]
    assert found == pytest.approx(published, abs=1.5e-3)


def test_friedman_is_as_large_as_it_says():
    random = np.random.default_rng(25)
    found = [s.friedman(random.random((12, 5))) for _ in range(400)]
    low, high = expected(400, 0.05)
    assert low <= np.mean([one.p_f <= 0.05 for one in found]) <= high
    assert np.mean([one.groups != s.groups(one.ranks, 5) for one in found]) <= high


def test_groups_are_the_largest_that_hold_together():
    assert s.groups([1.0, 4.0, 2.0, 3.1], 1.2) == ((0, 2), (2, 3), (3, 1))
    assert s.groups([1.0, 2.0, 3.0], 2.0) == ((0, 1, 2),)
    assert s.groups([1.0, 3.0], 1.5) == ()


# ------------------------------------------------------------------------------- fronts, overlaps, draws


points = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=15)


@given(points, st.randoms(use_true_random=False))
def test_a_front_is_what_nothing_beats(found, random):
    def beats(one, other):
        return one[0] <= other[0] and one[1] >= other[1] and one != other

    costs, gains = [cost for cost, _ in found], [gain for _, gain in found]
    on = s.front(costs, gains)
    assert set(on) == {place for place, point in enumerate(found) if not any(beats(other, point) for other in found)}
    assert list(on) == sorted(on, key=lambda place: (costs[place], place))
    assert not any(beats(found[one], found[other]) for one in on for other in on)
    rest = set(range(len(found))) - set(on)
    assert all(any(beats(found[one], found[other]) for one in on) for other in rest)
    order = list(range(len(found)))
    random.shuffle(order)
    again = s.front([costs[place] for place in order], [gains[place] for place in order])
    assert {order[place] for place in again} == set(on)


def test_how_often_a_method_is_on_the_front():
    random = np.random.default_rng(26)
    alike, good, bad = (right(random, 1, range(200), p, 0)[0] for p in (0.6, 0.95, 0.2))
    found = s.front_shares([1, 2, 2, 3], [alike, alike, bad, good], quick())
    # The second costs more than its equal; the third is worse than both at no lower cost.
    assert found == (1.0, 0.0, 0.0, 1.0)
    close = s.front_shares([1, 2], right(random, 2, range(200), 0.6, 0), quick())
    assert close[0] == 1.0
    assert 0 < close[1] < 1


kept = st.lists(st.sets(st.integers(0, 9)), min_size=4, max_size=4)


@given(kept, kept)
def test_overlap_lies_between_none_and_all(one, other):
    found = s.jaccard(one, other)
    assert 0 <= found <= 1
    assert found == s.jaccard(other, one)
    assert s.jaccard(one, one) == 1
    assert (found == 1) == (one == other)
    assert s.overlaps([one, other]) == ((1.0, found), (found, 1.0))


def test_overlap_by_hand():
    assert s.jaccard([(0, 1, 2), (5,)], [(1, 2, 3), (6,)]) == 0.25
    assert s.jaccard([()], [()]) == 1


@pytest.mark.parametrize(("tokens", "one", "other"), [(8, 3, 4), (6, 5, 4), (5, 0, 2), (4, 0, 0), (5, 5, 5)])
def test_overlap_by_chance_is_the_mean_over_all_sets(tokens, one, other):
    fixed = set(range(one))
    every = [set(chosen) for chosen in itertools.combinations(range(tokens), other)]
    assert s.chance_jaccard(tokens, one, other) == pytest.approx(
        np.mean([s.jaccard([fixed], [chosen]) for chosen in every])
    )


def test_draws_are_a_part_of_what_an_interval_holds():
    random, simulations, clusters = np.random.default_rng(27), 800, pictures(*[3] * 60)
    codes = np.arange(60).repeat(3)
    # What each sample's chance of being right is under a random choice of tokens, alike within a picture.
    chance = np.clip(random.beta(2, 2, (simulations, 60))[:, codes] + random.normal(0, 0.1, (simulations, 180)), 0, 1)
    draws = (random.random((3, simulations, 180)) < chance).astype(float)
    joined = [s.over_draws(draws[:, one]) for one in range(simulations)]
    low, high = expected(simulations, 0.95)
    truth = 0.5
    assert low <= covered(s.score_intervals([one.scores for one in joined], quick(clusters)), truth) <= high
    # The deviation over seeds, which is what gets printed, knows nothing of which samples were taken.
    spread = np.mean([abs(one.scores.mean() - truth) <= 1.96 * one.spread for one in joined])
    assert spread < low - 0.1
    again = (random.random((3, 4000, 180)) < chance[0]).mean(axis=(0, 2))
    assert joined[0].noise == pytest.approx(again.std(), rel=0.15)


def test_the_area_under_a_curve_is_a_mean_over_halvings():
    assert s.budget_weights([64, 128, 256]) == pytest.approx((0.25, 0.5, 0.25))
    assert s.budget_weights([1 / 3, 1 / 36, 1 / 9]) == pytest.approx(
        (math.log(3) / math.log(12) / 2, math.log(4) / math.log(12) / 2, 0.5)
    )
    budgets = np.array([192, 32, 64, 128])
    order = np.array([1, 2, 3, 0])
    scores = np.random.default_rng(28).random(4)
    area = np.trapezoid(scores[order], np.log(budgets[order])) / math.log(6)
    assert np.dot(s.budget_weights(budgets), scores) == pytest.approx(area)


# ----------------------------------------------------------------------------------------------- refusals

GOOD = np.zeros((2, 4))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: s.score_intervals(np.zeros(4)), "one row a method and one column a sample"),
        (lambda: s.score_intervals([[0.0, np.nan]]), "1 values that are no finite number"),
        (lambda: s.score_intervals([[0.0, 50.0]]), r"outside of `bounds` \[0, 1\]"),
        (lambda: s.score_intervals(np.zeros((1, 0))), "no samples"),
        (lambda: s.score_intervals(GOOD, s.Design(["a"] * 4)), "at least two clusters"),
        (lambda: s.score_intervals(GOOD, s.Design(["a"] * 3)), "`clusters` has 3 labels for 4 samples"),
        (lambda: s.score_intervals(GOOD, s.Design(kinds=["a"] * 5)), "`kinds` has 5 labels for 4 samples"),
        (lambda: s.Design(level=95), "a part, such as 0.95"),
        (lambda: s.Design(resamples=0), "at least 1 resample"),
        (lambda: s.difference_intervals(GOOD, np.zeros(3)), "same samples"),
        (lambda: s.difference_intervals(GOOD, np.zeros((3, 4))), "same samples"),
        (lambda: s.ratio_intervals([]), "at least one part"),
        (lambda: s.ratio_intervals([(GOOD, np.ones(3), s.Design())]), "same samples"),
        (lambda: s.ratio_intervals([(GOOD, np.full(4, 2.0), s.Design())]), r"outside of `bounds` \[0, 1\]"),
        (lambda: s.sign_flip(GOOD, np.zeros(3)), "same samples"),
        (lambda: s.mcnemar([1, 0], [1]), "pairs samples"),
        (lambda: s.mcnemar([1, 1 / 3], [1, 0]), "use `sign_flip`"),
        (lambda: s.holm([0.2, 1.2]), "between 0 and 1"),
        (lambda: s.detectable(0, 0.1), "at least 1"),
        (lambda: s.detectable(10, 1.1), "between 0 and 1"),
        (lambda: s.detectable(10, 0.1, power=0.2), "power lies between"),
        (lambda: s.detectable(10, 0.1, comparisons=0), "at least 1 comparison"),
        (lambda: s.samples_needed(0.2, 0.1), "takes a discordance of at least as much"),
        (lambda: s.smallest_difference([1, 0], [1, 0, 1]), "same samples"),
        (lambda: s.design_effect([0, 1], s.Design("aa")), "at least two clusters"),
        (lambda: s.win_tie_loss([]), "no methods"),
        (lambda: s.win_tie_loss([(GOOD, s.Design()), (GOOD[:1], s.Design())]), r"\[1, 2\] methods"),
        (lambda: s.agreement(GOOD[:1]), "two judges"),
        (lambda: s.transfer(GOOD[:1], GOOD[:1]), "two methods"),
        (lambda: s.transfer(GOOD, np.zeros((3, 4))), "the same methods on the same samples"),
        (lambda: s.friedman(np.zeros((3, 2))), "three methods"),
        (lambda: s.critical_difference(1, 5), "two methods"),
        (lambda: s.front([1, 2], [1]), "2 costs and 1 gains"),
        (lambda: s.front([1], [math.inf]), "no finite numbers"),
        (lambda: s.front_shares([1], GOOD), "2 methods need as many"),
        (lambda: s.jaccard([()], []), "same samples"),
        (lambda: s.chance_jaccard(4, 5, 1), "cannot be kept"),
        (lambda: s.over_draws(GOOD[:1]), "at least two draws"),
        (lambda: s.budget_weights([64, 64]), "two different budgets"),
        (lambda: s.budget_weights([0, 64]), "above zero"),
    ],
)
def test_what_cannot_be_compared_is_refused(call, says):
    with pytest.raises(StudyError, match=says):
        call()


def test_degenerate_comparisons_have_an_answer():
    alone = s.rank_intervals(np.ones((1, 5)), quick())
    assert alone == (s.Rank(1.0, 1, 1, (1.0,)),)
    same = s.friedman(np.ones((4, 3)))
    assert (same.statistic, same.p, same.p_f) == (0.0, 1.0, 1.0)
    perfect = s.friedman(np.tile([3.0, 2.0, 1.0], (6, 1)))
    assert perfect.p_f == 0.0
    assert s.agreement(np.ones((2, 3))).w == 1.0
    assert s.front([], []) == ()


def test_loading_statistics_loads_no_scipy():
    code = "import sys, tokensieve.study.statistics; sys.exit('scipy' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
