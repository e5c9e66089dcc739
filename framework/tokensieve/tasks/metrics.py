"""How answers are graded: every grade is in [0, 1], and higher is better.

Each function follows what its benchmark publishes; where the published text and the published code disagree,
or leave something open, its docstring says what is done here.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from decimal import Context, Decimal
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

ANNOTATORS = 10
"""How many people answer each question, where VQA accuracy was defined."""
FEWEST_ANNOTATORS = 4
"""With fewer, an answer that everybody gave would not be right: leaving one out, three must be left."""

Said = Literal["yes", "no"]


def plain(text: str) -> str:
    """Return a text in lower case, with single spaces and without a period at the end."""
    return " ".join(text.lower().split()).removesuffix(".").rstrip()


def exact_match(answer: str, answers: Sequence[str]) -> float:
    """Return 1 if an answer is one of the right ones, but for case, spaces and a period at the end.

    Args:
        answer: what was answered.
        answers: what counts as right.
    """
    return float(plain(answer) in map(plain, answers))


# ------------------------------------------------------------------------------------ VQA accuracy

_ARTICLES = {"a", "an", "the"}
_NUMBERS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
# A colon often stands in a time, and an apostrophe in a possessive: these two stay.
_SIGNS = ';/[]"{}()=+\\_-><@`,?!'
_GROUPED = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
# None whose letters are another word by themselves: we're, I'll, she'd, it's.
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd somebody'd've somebody'll
    somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
    would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""


def _misspellings(word: str) -> set[str]:
    """Return what is left of a contraction when one or more of its apostrophes are forgotten."""
    places = [place for place, sign in enumerate(word) if sign == "'"]
    return {
        "".join(sign for place, sign in enumerate(word) if place not in gone)
        for count in range(1, len(places) + 1)
        for gone in combinations(places, count)
    }


_SPELLINGS = {wrong: word for word in _CONTRACTIONS.split() for wrong in _misspellings(word)}


def vqa_plain(text: str) -> str:
    """Return an answer as VQA accuracy compares it.

    As <https://visualqa.org/evaluation> says: lower case, no periods but decimal ones, number words as digits, no
    articles, contractions with their apostrophes, punctuation but apostrophes and colons as a space. As its code
    has it, a sign goes without leaving a space where it stands beside one anywhere in the answer, and so do all
    signs of an answer with a number such as 1,000.
    """
    text = text.replace("\n", " ").replace("\t", " ").strip()
    grouped = _GROUPED.search(text) is not None
    spaced = text
    for sign in _SIGNS:
        gone = grouped or f"{sign} " in text or f" {sign}" in text
        spaced = spaced.replace(sign, "" if gone else " ")
    words = (_NUMBERS.get(word, word) for word in _PERIOD.sub("", spaced).lower().split())
    return " ".join(_SPELLINGS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, answers: Sequence[str]) -> float:
    """Return VQA accuracy: the mean, over all choices of one annotator to leave out, of min(1, same answers / 3).

    <https://arxiv.org/abs/1505.00468>. The published code leaves answers as they are where all annotators wrote the
    same; here they are always compared as `vqa_plain` has them, as the code of TextVQA does.

    Args:
        answer: what was answered.
        answers: what people answered, one entry for each of them; ten, where it was defined.

    Raises:
        ValueError: if there are fewer than four people, of whom nobody could be right.
    """
    if len(answers) < FEWEST_ANNOTATORS:
        raise ValueError(
            f"VQA accuracy counts how many of {ANNOTATORS} people answered the same, and {len(answers)} did answer"
        )
    same = sum(vqa_plain(other) == vqa_plain(answer) for other in answers)
    # Leaving out one who agrees leaves one less; the others leave all of them.
    total = same * min(3, same - 1) + (len(answers) - same) * min(3, same)
    return total / (3 * len(answers))


# ------------------------------------------------------------------------------------ ANLS


def anls(answer: str, answers: Sequence[str], threshold: float = 0.5) -> float:
    """Return the average normalised Levenshtein similarity: 1 - distance / length to the nearest right answer.

    <https://arxiv.org/abs/1907.00490>. Less than the threshold counts as 0. Exactly the threshold counts as it is,
    as in the evaluation of DocVQA; the paper's formula would make that 0. Case and the number of spaces say
    nothing, and lengths are counted without surplus spaces.

    Args:
        answer: what was answered.
        answers: what counts as right.
        threshold: the least similarity that counts.
    """
    said = " ".join(answer.lower().split())
    nearest = max((_similarity(said, " ".join(right.lower().split())) for right in answers), default=0.0)
    return nearest if nearest >= threshold else 0.0


def _similarity(one: str, other: str) -> float:
    longest = max(len(one), len(other))
    return 1 - Levenshtein.distance(one, other) / longest if longest else 1.0


# ------------------------------------------------------------------------------------ relaxed accuracy

_TOLERANCE = Decimal("0.05")
# Without traps: what is out of range becomes infinite, and what is no number becomes NaN.
_EXACT = Context(prec=60, traps=[])


def relaxed_accuracy(answer: str, answers: Sequence[str], tolerance: Decimal = _TOLERANCE) -> float:
    """Return 1 if a number is within 5 % of a right one, or any other text is a right one, but for case.

    <https://arxiv.org/abs/2203.10244>, section 5.1. `12%` is 0.12, as in the code that papers use. Numbers are compared
    as decimals: 1.05 is within 5 % of 1, where floats would say no; and of 0 only 0 is, however it is written.

    Args:
        answer: what was answered.
        answers: what counts as right.
        tolerance: the largest relative difference.
    """
    return float(any(_near(answer.strip(), right.strip(), tolerance) for right in answers))


def _near(answer: str, right: str, tolerance: Decimal) -> bool:
    said, true = _number(answer), _number(right)
    if said is None or true is None:
        return answer.lower() == right.lower()
    apart = _EXACT.abs(_EXACT.subtract(said, true))
    return apart <= _EXACT.multiply(tolerance, _EXACT.abs(true))


def _number(text: str) -> Decimal | None:
    percent = text.endswith("%")
    number = _EXACT.create_decimal(text.removesuffix("%").strip())
    if not number.is_finite():
        return None
    return _EXACT.divide(number, Decimal(100)) if percent else number


# ------------------------------------------------------------------------------------ multiple choice

LETTERS = string.ascii_uppercase
_ALONE = re.compile(r"[\s(\[]*([A-Za-z])[\s.):\],]*")
_FIRST = re.compile(r"[\s(\[]*([A-Za-z])(?:[.):\]]+\s|[)\]])")
_ANNOUNCED = re.compile(r"\b[Aa]nswer(?:\s+is)?\s*:?\s*(?:[Oo]ption\s+)?[(\[]?([A-Z])(?=[.,:)\]]|\s*$)")


def lettered(choices: Sequence[str]) -> str:
    """Return choices as a prompt lists them: a line each, `A. ` before the first."""
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def chosen(answer: str, choices: Sequence[str]) -> int | None:
    """Return the place of the choice that an answer names, or none where that is not clear.

    The first of these that holds decides:

    1. the answer is a letter, whatever brackets or signs stand around it: `B`, `(b)`, `B.`;
    2. it begins with a letter and a sign that sets it off: `B. a cat`, `(B) a cat`, `B: a cat`;
    3. it is the text of a choice, as `plain` has it;
    4. it announces a capital letter: `The answer is B.`, `Answer: (B)`;
    5. the text of exactly one choice stands in it as whole words; where a choice stands inside a longer one (red,
       dark red), the longer one is meant.

    A letter beyond the choices names none of them. Nothing is guessed: an unclear answer is wrong, not drawn.

    Args:
        answer: what was answered.
        choices: at most 26 texts.
    """
    said = answer.strip()
    for found in (_ALONE.fullmatch(said), _FIRST.match(said)):
        if found is not None and (place := LETTERS.index(found[1].upper())) < len(choices):
            return place
    for place, choice in enumerate(choices):
        if plain(choice) == plain(said):
            return place
    announced = _ANNOUNCED.search(said)
    if announced is not None and (place := LETTERS.index(announced[1])) < len(choices):
        return place
    mentioned = _mentioned(said, choices)
    return mentioned[0] if len(mentioned) == 1 else None


def _mentioned(answer: str, choices: Sequence[str]) -> list[int]:
    rest, found = plain(answer), []
    for place in sorted(range(len(choices)), key=lambda place: -len(choices[place])):
        words = re.compile(rf"(?<!\w){re.escape(plain(choices[place]))}(?!\w)")
        if words.search(rest):
            found.append(place)
            # So that a shorter choice is not found inside this one.
            rest = words.sub("\0", rest)
    return found


def multiple_choice(answer: str, answers: Sequence[str], choices: Sequence[str]) -> float:
    """Return 1 if an answer names the right choice, as `chosen` reads it.

    Args:
        answer: what was answered.
        answers: the text of each choice that counts as right.
        choices: all of them.
    """
    place = chosen(answer, choices)
    return float(place is not None and choices[place] in answers)


# ------------------------------------------------------------------------------------ yes or no


def said(answer: str) -> Said | None:
    """Return whether an answer says yes or no, or none where it says neither.

    The first word decides if it is one of the two. Otherwise, as in the code of POPE, `no` or `not` in the first
    sentence means no. Unlike there, anything else means yes only if `yes` stands in that sentence: a model that
    no longer makes sense has not said yes, and must not score half of the points for it.
    """
    words = re.findall(r"[a-z']+", answer.lower().strip().lstrip(".").split(".")[0])
    if words and words[0] in ("yes", "no"):
        return "yes" if words[0] == "yes" else "no"
    if "no" in words or "not" in words:
        return "no"
    return "yes" if "yes" in words else None


def yes_or_no(answer: str, answers: Sequence[str]) -> float:
    """Return 1 if an answer says what is right, as `said` reads both."""
    says = said(answer)
    return float(says is not None and says in map(said, answers))


def detection(said_yes: NDArray[np.float64], is_yes: NDArray[np.float64]) -> Mapping[str, float]:
    """Return POPE's measures, of which yes is the positive class: precision, recall, F1 and the share of yes.

    <https://arxiv.org/abs/2305.10355>. What is undefined, such as the precision of one who never says yes, is 0.

    Args:
        said_yes: 1 where the model said yes, `[samples]`.
        is_yes: 1 where yes is right, `[samples]`.
    """
    hits = float((said_yes * is_yes).sum())
    claims, truths = float(said_yes.sum()), float(is_yes.sum())
    return {
        "precision": hits / claims if claims else 0.0,
        "recall": hits / truths if truths else 0.0,
        "f1": 2 * hits / (claims + truths) if claims + truths else 0.0,
        "yes_ratio": claims / len(said_yes),
    }
