"""What a task of lmms-eval gives an answer, and which of its metrics are means of that."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from tokensieve.errors import TaskError, short_message
from tokensieve.tasks.lmms.loading import load_task

How = Literal["mean", "100 x mean", "otherwise"]
"""How lmms-eval makes one number of what a metric gives answers."""
PROBES = 24
"""How many documents tell whether a metric is a mean of what it gives answers."""
_SCORE = ".score"
"""The end of the name of a grade that lmms-eval aggregates otherwise than by the mean."""


@dataclass(frozen=True)
class Metric:
    """A metric of a task of lmms-eval that is a number for every answer.

    Attributes:
        name: the name of the grade: that of the metric if its mean is what lmms-eval says, else with `.score`.
        of: the metric in lmms-eval.
        how: how lmms-eval makes one number of all answers.
    """

    name: str
    of: str
    how: How


def results(name: str, task: Any, number: int, text: str) -> dict[str, Any]:
    """Return what a task gives an answer to a document, by metric: cut where answers end, filtered, and graded.

    Raises:
        TaskError: if the functions of the task fail.
    """
    from lmms_eval.api.instance import Instance  # pyright: ignore[reportMissingImports] - it has its own environment

    text = cut(text, (task.config.generation_kwargs or {}).get("until"))
    docs = task.eval_docs if task.config.process_results_use_image else task.eval_docs_no_media
    of = {"task": name, "doc_id": number, "repeats": 1}
    asked = Instance("generate_until", (), 0, metadata=of, resps=[text])
    try:
        chosen = task._filters[0]
        chosen.apply([asked], docs)
        # Without tenacity, which would try again for seconds.
        grading = inspect.unwrap(type(task).process_results)
        return dict(grading(task, docs[number], [asked.filtered_resps[chosen.name]]))
    # The functions of a task can raise anything.
    except Exception as error:
        raise TaskError(f"'{name}' of lmms-eval cannot grade document {number}: {short_message(error)}") from None


def cut(text: str, until: str | Sequence[str] | None) -> str:
    """Return an answer up to the first of the texts at which it ends, without surrounding space."""
    for end in [until] if isinstance(until, str) else until or ():
        if end:
            text = text.split(end)[0]
    return text.strip()


def number_of(value: Any, task: Any) -> float | None:
    """Return what a metric gives an answer as a number, or none if it is none."""
    if isinstance(value, Mapping):
        value = value.get(task.config.score_key)
    return float(value) if isinstance(value, (bool, int, float, np.number)) else None


def right_answers(task: Any, number: int) -> tuple[str, ...]:
    """Return the right answers to a document, as its task has them."""
    doc, written = task.eval_docs_no_media[number], task.config.doc_to_target
    if isinstance(written, str) and written not in doc and "{{" not in written:
        # Its name of a column that is not there is taken for a text: TextVQA has `answers`.
        several = doc.get(f"{written}s")
        return tuple(str(one) for one in several) if isinstance(several, (list, tuple)) else ()
    target = task.doc_to_target(doc)
    if task.config.doc_to_choice is not None:
        target = task.doc_to_choice(doc)[target]
    return tuple(str(one) for one in target) if isinstance(target, (list, tuple)) else (str(target),)


@lru_cache(maxsize=8)
def metrics_of(name: str, include_path: str | None) -> tuple[Metric, ...]:
    """Return the metrics of a task that are numbers, in its order.

    Raises:
        TaskError: if there is none, or a document cannot be graded.
    """
    task = load_task(name, include_path)
    missing = dict.fromkeys(task.aggregation())
    found: dict[str, Metric] = {}
    for number in range(len(task.eval_docs_no_media)):
        if not missing:
            break
        given = results(name, task, number, "")
        for metric in [metric for metric in missing if metric in given]:
            del missing[metric]
            if number_of(given[metric], task) is not None:
                how = _how(name, task, metric, number)
                found[metric] = Metric(metric if how != "otherwise" else metric + _SCORE, metric, how)
    if not found:
        raise TaskError(
            f"'{name}' of lmms-eval cannot be a task of a study: none of its metrics ({', '.join(task.aggregation())}) "
            "is a number for an answer"
        )
    ordered = [found[metric] for metric in task.aggregation() if metric in found]
    # What a study can compare comes first.
    return tuple(sorted(ordered, key=lambda metric: metric.how == "otherwise"))


def _how(name: str, task: Any, metric: str, first: int) -> How:
    """Return how a metric is aggregated: as it is registered, or by trying it on answers of several kinds."""
    from lmms_eval.api.registry import get_aggregation  # pyright: ignore[reportMissingImports] - as above

    aggregate = task.aggregation()[metric]
    if aggregate is get_aggregation("mean"):
        return "mean"
    numbers = range(first, min(len(task.eval_docs_no_media), first + PROBES))
    right = ["".join(right_answers(task, number)[:1]) for number in numbers]
    tries = (
        [one if place % 2 else "" for place, one in enumerate(right)],
        [one if place % 3 else right[place - 1] for place, one in enumerate(right)],
        # Recall is the share of right answers in both, and here it is not.
        [right[0]] * len(right),
        ["yes"] * len(right),
    )
    found: set[How] = set()
    for answers in tries:
        how = _compared(name, task, metric, aggregate, zip(numbers, answers, strict=True))
        # Where all answers are worth the same, anything is a mean.
        if how is not None:
            found.add(how)
    return found.pop() if len(found) == 1 else "otherwise"


def _compared(name: str, task: Any, metric: str, aggregate: Any, answers: Iterable[tuple[int, str]]) -> How | None:
    """Return whether an aggregation is the mean of its values for some answers; none if all values are alike."""
    given, told = [], []
    for number, answer in answers:
        value = results(name, task, number, answer).get(metric)
        amount = number_of(value, task)
        if amount is not None:
            given.append(value)
            told.append(amount)
    if len(set(told)) < 2:
        return None
    mean = sum(told) / len(told)
    try:
        whole = float(aggregate(given))
    # What needs more than answers, or writes what it finds, is no mean.
    except Exception:
        return "otherwise"
    if math.isclose(whole, mean, abs_tol=1e-9):
        return "mean"
    return "100 x mean" if math.isclose(whole, 100 * mean, abs_tol=1e-7) else "otherwise"


def told_together(known: Sequence[Metric], chosen: Metric, given: Mapping[str, Any]) -> list[Metric]:
    """Return the metrics that grade the documents which the chosen one grades, of which lmms-eval takes the mean."""
    return [one for one in known if one == chosen or (one.how != "otherwise" and one.of in given)]
