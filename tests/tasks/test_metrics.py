"""Metrics, against examples worked out by hand, against another way of computing them, and by their laws."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokensieve.tasks import metrics

WORDS = st.sampled_from(["red", "blue", "Red.", " the red", "two", "2", "dont", "don't", "", "a cat", "5%", "0.05"])
TEXTS = st.one_of(WORDS, st.text(max_size=12))
LABELLED = (metrics.exact_match, metrics.anls, metrics.relaxed_accuracy)


# exact match


@pytest.mark.parametrize(
    ("answer", "answers", "grade"),
    [
        ("Red.", ["red"], 1),
        ("  dark\n red ", ["Dark red"], 1),
        ("reddish", ["red"], 0),
        ("blue", ["red", "Blue"], 1),
        ("the red", ["red"], 0),
        ("", ["red"], 0),
        ("2..", ["2"], 0),
        ("red", [], 0),
    ],
)
def test_exact_match(answer, answers, grade):
    assert metrics.exact_match(answer, answers) == grade


# VQA accuracy


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        # Articles, numerals, contractions, capitals.
        ("The two dogs", "2 dogs"),
        ("an Apple", "apple"),
        ("A", ""),
        ("none", "0"),
        ("Ten", "10"),
        ("eleven", "eleven"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("couldntve", "couldn't've"),
        ("don't", "don't"),
        ("youre", "you're"),
        # These are words of their own.
        ("its", "its"),
        ("were", "were"),
        ("well", "well"),
        # Punctuation: a space, or nothing where it stands beside one.
        ("red/blue", "red blue"),
        ("red, blue", "red blue"),
        ("t-shirt", "t shirt"),
        ("t-shirt -", "tshirt"),
        ("(yes)", "yes"),
        ("what?!", "what"),
        ("snow_board", "snow board"),
        # ... but apostrophes and colons.
        ("girl's", "girl's"),
        ("2:50 pm", "2:50 pm"),
        # Periods but decimal ones, commas between digits.
        ("St. John", "st john"),
        ("2.50", "2.50"),
        (".5", ".5"),
        ("yes.", "yes"),
        ("100,978", "100978"),
        ("1,000-2,000", "10002000"),
        ("line\nbreak\ttab", "line break tab"),
        ("  two   spaces ", "2 spaces"),
    ],
)
def test_how_vqa_accuracy_reads_an_answer(text, normal):
    assert metrics.vqa_plain(text) == normal


@pytest.mark.parametrize(
    ("same", "grade"),
    # With 3 of 10: leaving out one of the three leaves 2 / 3, leaving out another leaves 1.
    [(0, 0), (1, 9 / 30), (2, (2 * 1 + 8 * 2) / 30), (3, (3 * 2 + 7 * 3) / 30), (4, 1), (5, 1), (10, 1)],
)
def test_vqa_accuracy_of_so_many_same_answers(same, grade):
    answers = ["Two"] * same + ["three"] * (10 - same)
    assert metrics.vqa_accuracy("2.", answers) == pytest.approx(grade, abs=1e-15)


def test_vqa_accuracy_needs_enough_people():
    with pytest.raises(ValueError, match="how many of 10 people answered the same, and 3 did"):
        metrics.vqa_accuracy("red", ["red"] * 3)


def by_leaving_out(answer, answers):
    """VQA accuracy as its page has it: everyone is left out in turn."""
    grades = []
    for left_out in range(len(answers)):
        others = [other for place, other in enumerate(answers) if place != left_out]
        found = len([other for other in others if metrics.vqa_plain(other) == metrics.vqa_plain(answer)])
        grades.append(min(Fraction(1), Fraction(found, 3)))
    return sum(grades) / len(answers)


@given(TEXTS, st.lists(WORDS, min_size=4, max_size=12), st.randoms(use_true_random=False))
def test_vqa_accuracy_is_the_mean_of_leaving_out_one(answer, answers, random):
    grade = metrics.vqa_accuracy(answer, answers)
    assert grade == pytest.approx(float(by_leaving_out(answer, answers)), abs=1e-12)
    assert 0 <= grade <= 1
    shuffled = random.sample(answers, len(answers))
    assert metrics.vqa_accuracy(answer, shuffled) == grade
    # Who changes to the answer makes it no worse.
    assert metrics.vqa_accuracy(answer, [answer, *answers[1:]]) >= grade


@given(TEXTS)
def test_reading_an_answer_again_changes_little(text):
    """Lower case, single spaces, and no sign of those that go."""
    normal = metrics.vqa_plain(text)
    assert normal == normal.lower()
    assert normal == " ".join(normal.split())
    assert not set(normal) & set(';/[]"{}()=+\\_-><@`,?!')


# ANLS


@pytest.mark.parametrize(
    ("answer", "answers", "grade"),
    [
        ("Coca Cola", ["coca cola"], 1),
        ("coca  cola ", ["Coca Cola"], 1),
        # 1 of 9 and 4 of 9 letters are other ones.
        ("coca-cola", ["coca cola"], 8 / 9),
        ("coke cola", ["coca cola"], 7 / 9),
        ("kitten", ["sitting"], 4 / 7),
        # Half the letters: the threshold counts as it is; below it counts nothing.
        ("abcd", ["abxy"], 0.5),
        ("abcd", ["axyz"], 0),
        ("pepsi", ["coca cola", "Pepsi", "beer"], 1),
        ("", [""], 1),
        ("", ["a"], 0),
        ("a", [], 0),
    ],
)
def test_anls(answer, answers, grade):
    assert metrics.anls(answer, answers) == pytest.approx(grade, abs=1e-15)


def test_the_threshold_of_anls():
    assert metrics.anls("abcd", ["axyz"], threshold=0.25) == 0.25
    assert metrics.anls("abcd", ["abxy"], threshold=0.51) == 0


def edits(one, other):
    """The Levenshtein distance by its recurrence."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        last = row
        row = [i]
        for j, b in enumerate(other, 1):
            row.append(min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a != b)))
    return row[-1]


@given(st.text("abAB ", max_size=8), st.lists(st.text("abAB ", max_size=8), min_size=1, max_size=3))
def test_anls_is_its_formula(answer, answers):
    best = 0
    for right in answers:
        a, b = (" ".join(text.lower().split()) for text in (answer, right))
        longest = max(len(a), len(b))
        best = max(best, 1 - Fraction(edits(a, b), longest) if longest else Fraction(1))
    assert metrics.anls(answer, answers) == pytest.approx(float(best) if best >= 0.5 else 0, abs=1e-12)


# relaxed accuracy


@pytest.mark.parametrize(
    ("answer", "right", "grade"),
    [
        ("105", "100", 1),
        ("95", "100", 1),
        ("105.01", "100", 0),
        ("94.99", "100", 0),
        # Floats have these two just beyond the limit.
        ("1.05", "1", 1),
        ("0.57", "0.6", 1),
        ("-105", "-100", 1),
        ("105", "-100", 0),
        ("12%", "0.12", 1),
        ("12", "12%", 0),
        ("12 %", "12%", 1),
        ("0", "0", 1),
        ("0.0", "0", 1),
        ("0.001", "0", 0),
        ("1e2", "100", 1),
        # A number with a comma is a text, in the published code, too.
        ("1,000", "1000", 0),
        ("1,000", "1,000", 1),
        ("Yes", "yes", 1),
        ("2009 ", "2009", 1),
        ("2019", "2009", 1),
        ("blue bar", "blue", 0),
        ("nan", "NaN", 1),
        ("inf", "5", 0),
        ("5", "inf", 0),
        ("1e999999999999", "5", 0),
        ("%", "%", 1),
    ],
)
def test_relaxed_accuracy(answer, right, grade):
    assert metrics.relaxed_accuracy(answer, [right]) == grade
    assert metrics.relaxed_accuracy(answer, ["nothing like it", right]) == grade


NUMBERS = st.decimals(-1000, 1000, places=2)


@given(NUMBERS, NUMBERS)
def test_relaxed_accuracy_is_its_formula(said, true):
    apart = abs(Fraction(said) - Fraction(true))
    expected = apart <= Fraction(1, 20) * abs(Fraction(true))
    assert metrics.relaxed_accuracy(str(said), [str(true)]) == expected


@given(NUMBERS.filter(bool), st.integers(-60, 60))
def test_relaxed_accuracy_near_the_limit(true, thousandths):
    said = true * (1000 + thousandths) / 1000
    assert metrics.relaxed_accuracy(str(said), [str(true)]) == (abs(thousandths) <= 50)


# multiple choice

ANIMALS = ("a cat", "the dog", "dark red", "red")


@pytest.mark.parametrize(
    ("answer", "place"),
    [
        ("B", 1),
        ("b", 1),
        ("(B)", 1),
        (" B. ", 1),
        ("[b]", 1),
        ("B. the dog", 1),
        ("(B) the dog", 1),
        ("B: the dog", 1),
        ("b) whatever", 1),
        # The letter counts, not what stands behind it.
        ("B. a cat", 1),
        ("the dog", 1),
        ("The dog.", 1),
        ("The answer is B.", 1),
        ("Answer: (B)", 1),
        ("I think the answer is option B", 1),
        ("It is the dog over there", 1),
        ("A cat", 0),
        ("A", 0),
        ("It looks dark red", 2),
        ("It looks red", 3),
        # Neither a letter of a choice, nor one choice alone.
        ("E", None),
        ("E. the dog", 1),
        ("a cat and the dog", None),
        ("red or dark red", None),
        ("reddish", None),
        ("", None),
        ("I do not know", None),
        ("The answer is a bird", None),
    ],
)
def test_which_choice_an_answer_names(answer, place):
    assert metrics.chosen(answer, ANIMALS) == place


def test_multiple_choice():
    assert metrics.multiple_choice("B", ["the dog"], ANIMALS) == 1
    assert metrics.multiple_choice("B", ["a cat"], ANIMALS) == 0
    assert metrics.multiple_choice("no idea", ["a cat"], ANIMALS) == 0
    assert metrics.multiple_choice("D", ["a cat", "red"], ANIMALS) == 1


def test_choices_are_lettered():
    assert metrics.lettered(("a cat", "the dog")) == "A. a cat\nB. the dog"
    assert metrics.lettered(()) == ""


SHAPES = ["circle", "square", "large star", "star", "ring"]


@given(st.permutations(SHAPES), st.integers(0, 4), st.data())
def test_every_way_to_name_a_choice_is_understood(choices, place, data):
    letter, text = "ABCDE"[place], choices[place]
    said = data.draw(
        st.sampled_from(
            [letter, letter.lower(), f"({letter})", f"{letter}. {text}", text, f"{text}.", f"It is a {text}, I think",
             f"The answer is {letter}.", f"Answer: {letter}"]
        )
    )  # fmt: skip
    assert metrics.chosen(said, choices) == place


@given(st.text(max_size=20), st.lists(st.text(min_size=1, max_size=5), min_size=2, max_size=6))
def test_a_choice_is_one_of_them_or_none(answer, choices):
    assert metrics.chosen(answer, choices) in (None, *range(len(choices)))


# yes or no


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("Yes", "yes"),
        ("yes, there is a dog.", "yes"),
        ("No.", "no"),
        ("no dog", "no"),
        # The first word counts, before any other.
        ("Yes, there is no doubt", "yes"),
        ("No, yes would be wrong", "no"),
        ("There is no dog. Yes, really", "no"),
        ("There is not a dog", "no"),
        ("I would say yes", "yes"),
        # The first sentence alone counts.
        ("There is a dog. Not a cat", None),
        ("There is a dog", None),
        ("nothing", None),
        ("know", None),
        ("", None),
    ],
)
def test_what_an_answer_says(answer, says):
    assert metrics.said(answer) == says


def test_yes_or_no():
    assert metrics.yes_or_no("Yes, I see one", ["yes"]) == 1
    assert metrics.yes_or_no("Yes, I see one", ["No"]) == 0
    assert metrics.yes_or_no("a dog", ["yes"]) == 0


def test_detection_by_hand():
    # 3 hits, 1 false alarm, 2 misses, 4 rightly denied.
    said = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0.0])
    true = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 0.0])
    assert metrics.detection(said, true) == pytest.approx(
        {"precision": 3 / 4, "recall": 3 / 5, "f1": 2 / 3, "yes_ratio": 0.4}
    )


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_detection_is_its_formula(pairs):
    count = {key: pairs.count(key) for key in itertools.product((False, True), repeat=2)}
    tp, fp, fn = count[True, True], count[True, False], count[False, True]
    precision, recall = (tp / (tp + wrong) if tp + wrong else 0 for wrong in (fp, fn))
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0
    said, true = np.array(pairs, dtype=np.float64).T
    expected = {"precision": precision, "recall": recall, "f1": f1, "yes_ratio": (tp + fp) / len(pairs)}
    assert metrics.detection(said, true) == pytest.approx(expected)


# laws of all


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=4), st.randoms(use_true_random=False))
@pytest.mark.parametrize("metric", LABELLED, ids=lambda metric: metric.__name__)
def test_laws_of_grades(metric, answer, answers, random):
    grade = metric(answer, answers)
    assert 0 <= grade <= 1
    assert not math.isnan(grade)
    assert metric(answer, random.sample(answers, len(answers))) == grade
    # What is right is right, and another right answer does no harm.
    assert metric(answers[0], answers) == 1
    assert metric(answer, [*answers, "red"]) >= grade
