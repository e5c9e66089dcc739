"""The metrics that `vqa_jsonl` knows, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tokensieve.tasks import metrics
from tokensieve.tasks.base import Sample


@dataclass(frozen=True)
class Metric:
    """A way to grade answers.

    Attributes:
        definition: what it computes, for the card.
        grade: returns the grade of an answer to a sample.
        check: returns what is wrong with a sample's right answers, or none.
    """

    definition: str
    grade: Callable[[str, Sample], float]
    check: Callable[[Sample], str | None] = lambda sample: None


def _too_few_annotators(sample: Sample) -> str | None:
    if len(sample.answers) >= metrics.FEWEST_ANNOTATORS:
        return None
    return (
        f"VQA accuracy needs what {metrics.ANNOTATORS} people answered, and there are {len(sample.answers)}; "
        "with one right answer, take the metric 'exact'"
    )


def _not_yes_or_no(sample: Sample) -> str | None:
    wrong = [answer for answer in sample.answers if metrics.plain(answer) not in ("yes", "no")]
    return f"the right answer is yes or no here, not {wrong[0]!r}" if wrong else None


METRICS: Mapping[str, Metric] = {
    "exact": Metric(
        "exact match but for case, spaces and a period at the end",
        lambda answer, sample: metrics.exact_match(answer, sample.answers),
    ),
    "vqa": Metric(
        "VQA accuracy: mean over annotators left out of min(1, same answers / 3), normalised as visualqa.org says",
        lambda answer, sample: metrics.vqa_accuracy(answer, sample.answers),
        _too_few_annotators,
    ),
    "anls": Metric(
        "average normalised Levenshtein similarity to the nearest answer, 0 below 0.5",
        lambda answer, sample: metrics.anls(answer, sample.answers),
    ),
    "relaxed": Metric(
        "relaxed accuracy: numbers within 5 %, other texts equal but for case",
        lambda answer, sample: metrics.relaxed_accuracy(answer, sample.answers),
    ),
    "choice": Metric(
        "multiple choice: the letter or the text of the right choice; an unclear answer is wrong",
        lambda answer, sample: metrics.multiple_choice(answer, sample.answers, sample.choices),
    ),
    "yes_no": Metric(
        "yes or no by the first word, else by the first sentence; neither is wrong, and is not yes",
        lambda answer, sample: metrics.yes_or_no(answer, sample.answers),
        _not_yes_or_no,
    ),
}
"""The metrics by name."""
