"""The conformance kit for tasks.

Inherit from `TaskConformance`, give it a task, and run it with pytest:

    class TestMine(TaskConformance):
        task = Mine()

Every law is a function below that takes a `Trial`: the task, and what the kit cannot find out by itself.
"""

from __future__ import annotations

import json
import math
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from tokensieve.models.pictures import Images, images_of
from tokensieve.tasks.base import Answer, Sample, Task, columns
from tokensieve.testing.checks import cured_by, require

if TYPE_CHECKING:
    import pytest

MAX_SAMPLES = 20
"""How many samples are graded and how many pictures are read: the first ones."""
WRONG_ANSWER = "xyzzy 0.5 of plugh"
GRIDS = ((1, 1), (3, 5), (12, 12), (24, 24))


@dataclass(frozen=True)
class Trial:
    """A task, and what the laws have to know of it.

    Attributes:
        task: the task under test.
        others: by field another valid value, which must change the hash of the card. By default booleans are negated,
            integers are increased by one, and the metric stays.
        unmarked: fields that are not in the card, each with the reason.
        right: returns a right answer to a sample, or none if there is none; by default the most frequent of the
            sample's answers.
        wrong: returns a wrong answer to a sample; by default a text that is no answer to anything.
    """

    task: Task
    others: Mapping[str, object] = field(default_factory=dict)
    unmarked: Mapping[str, str] = field(default_factory=dict)
    right: Callable[[Sample], str | None] = lambda sample: (
        Counter(sample.answers).most_common(1)[0][0] if sample.answers else None
    )
    wrong: Callable[[Sample], str] = lambda sample: WRONG_ANSWER

    def graded(self) -> Iterator[tuple[Sample, str, Mapping[str, float]]]:
        """Return the grades of a `right`, a `wrong` and an `empty` answer to each of the first samples."""
        for sample in self.task.samples()[:MAX_SAMPLES]:
            if self.task.compares:
                # The answer of the unpruned model is the right one.
                unpruned = Answer("something", torch.linspace(-1, 1, 8))
                yield sample, "right", self.task.grade(sample, unpruned, unpruned)
                for what, text in (("wrong", self.wrong(sample)), ("empty", "")):
                    yield sample, what, self.task.grade(sample, Answer(text, torch.linspace(1, -1, 8)), unpruned)
                continue
            right = self.right(sample)
            for what, said in (("right", right), ("wrong", self.wrong(sample)), ("empty", "")):
                if said is not None:
                    yield sample, what, self.task.grade(sample, Answer(said), None)


Law = Callable[[Trial], None]


@cured_by(
    "draw from a generator of a fixed seed, such as `random.Random(self.seed)`, sort what a folder lists, and "
    "keep nothing between calls"
)
def same_samples(trial: Trial) -> None:
    """A task returns the same samples in the same order on every call; so does an equal task."""
    first = list(trial.task.samples())
    require(first, "there is no sample")
    require(list(trial.task.samples()) == first, "asked again, it gives other samples")
    again = type(trial.task)(**trial.task.model_dump())
    require(list(again.samples()) == first, "an equal task gives other samples")


@cured_by("number the samples, or join the picture's name and the number of the question")
def unique_ids(trial: Trial) -> None:
    """Ids of samples are unique and not empty."""
    ids = [sample.id for sample in trial.task.samples()]
    twice = [name for name, number in Counter(ids).items() if number > 1]
    require(not twice, f"the id {twice[:1]} is that of more than one sample")
    require(all(ids), "an id is empty")


@cured_by(
    "return `{**super().card(), ...}` with plain JSON: lists instead of tuples, texts instead of paths, no NaN",
    raised=True,
)
def card_is_json(trial: Trial) -> None:
    """The card is plain JSON, the same on every call, and has the task, version, metric and longest answer."""
    card = trial.task.card()
    require(json.loads(json.dumps(card, allow_nan=False)) == card, "read back from JSON, the card is another")
    require(trial.task.card() == card and trial.task.hash() == trial.task.hash(), "asked again, the card is another")
    own = {
        "task": trial.task.name,
        "version": trial.task.version,
        "metric": trial.task.metric,
        "longest": trial.task.longest,
    }
    for key, value in own.items():
        require(card.get(key) == value, f"the card does not say that the {key} is {value!r}")


@cured_by(
    "return `{**super().card(), ...}`, which holds every field; a field that shall not count goes into the test's "
    "`unmarked`, with the reason",
    raised=True,
)
def card_changes(trial: Trial) -> None:
    """Another value of any field changes the hash, except for fields in `unmarked`."""
    task, cls = trial.task, type(trial.task)
    for name in cls.model_fields:
        if name == "metric" and name not in trial.others:
            # Often there is no other metric; another law tests that it is in the card.
            continue
        if name in trial.unmarked:
            require(trial.unmarked[name].strip(), f"'{name}' is said to be unmarked, and not why")
            continue
        now = getattr(task, name)
        known = name in trial.others or isinstance(now, int)
        require(
            known, f"the kit knows no other value of '{name}'", "give one in `others`, a class variable of the test"
        )
        value = trial.others[name] if name in trial.others else not now if isinstance(now, bool) else now + 1
        other = cls(**{**task.model_dump(), name: value})
        require(other.hash() != task.hash(), f"with {name}={value!r} the card has the same hash")


@cured_by(
    "return every grade for every answer, 0.0 where it is empty; the metric is a number from 0 to 1, not per cent"
)
def grades_are_alike(trial: Trial) -> None:
    """All answers get grades of the same names: finite numbers, the metric among them and in [0, 1]."""
    names: set[str] | None = None
    for sample, what, grades in trial.graded():
        names = set(grades) if names is None else names
        require(set(grades) == names, f"{what} answer to '{sample.id}': grades {sorted(grades)}, not {sorted(names)}")
        require(trial.task.metric in grades, f"the metric '{trial.task.metric}' is none of the grades {sorted(grades)}")
        require(all(math.isfinite(grade) for grade in grades.values()), f"a grade is not finite: {dict(grades)}")
        counts = grades[trial.task.metric]
        require(0 <= counts <= 1, f"the metric is {counts}, for the {what} answer to '{sample.id}'")


@cured_by(
    "compare texts without case, outer spaces and final period; where the kit cannot know the answer, override "
    "`right` or `wrong` of the test"
)
def right_is_one(trial: Trial) -> None:
    """A right answer scores 1; a wrong or an empty answer scores less."""
    tried = 0
    for sample, what, grades in trial.graded():
        score = grades[trial.task.metric]
        if what == "right":
            tried += 1
            require(score == 1, f"the right answer to '{sample.id}' scores {score}")
        else:
            require(score < 1, f"the {what} answer to '{sample.id}' scores {score}")
    require(tried, "no sample has a right answer; give one by `right`")


@cured_by(
    "return `{**super().summary(grades), ...}`, and add what depends neither on the order nor on the number of "
    "samples, such as means and counts"
)
def summary_has_the_metric(trial: Trial) -> None:
    """The summary is finite, does not depend on the order of samples, and has the mean of the metric."""
    table = columns([grades for _, _, grades in trial.graded()])
    found = trial.task.summary(table)
    mean = table[trial.task.metric].mean()
    said = found.get(trial.task.metric)
    require(said is not None and abs(said - mean) < 1e-9, f"the metric's mean is {mean}, and its summary {said}")
    require(all(math.isfinite(value) for value in found.values()), f"a measure is not finite: {dict(found)}")
    for order in (slice(None, None, -1), np.random.default_rng(0).permutation(len(table[trial.task.metric]))):
        turned = trial.task.summary({name: values[order] for name, values in table.items()})
        require(_close(found, turned), f"in another order the summary is {dict(turned)}, not {dict(found)}")
    one = trial.task.summary({name: values[:1] for name, values in table.items()})
    require(set(one) == set(found), f"of one sample it gives {sorted(one)}, of several {sorted(found)}")


@cured_by(
    'return `image.convert("RGB")`, one size for all frames, and draw from a seed that the sample has', raised=True
)
def pictures_are_rgb(trial: Trial) -> None:
    """Pictures and frames are RGB and not empty, and frames of a video have one size.

    They are the same on every call, and for samples that name the same picture.
    """
    seen: dict[str, bytes] = {}
    for sample in [*trial.task.samples()[:MAX_SAMPLES], *trial.task.samples()[:1]]:
        shown = trial.task.shown(sample)
        frames = images_of(shown)
        if isinstance(shown, Images):
            require(len(frames) > 1, f"'{sample.image}' has {len(frames)} images; where there is one, return none")
        else:
            sizes = {frame.size for frame in frames}
            require(len(sizes) == 1, f"'{sample.image}' has no frames, or frames of several sizes")
        for frame in frames:
            require(frame.mode == "RGB" and min(frame.size) > 0, f"'{sample.image}' is {frame.mode} of {frame.size}")
        content = repr(shown.size).encode() + b"".join(frame.tobytes() for frame in frames)
        require(seen.setdefault(sample.image, content) == content, f"'{sample.image}' is not always the same picture")


@cured_by(
    "number the places `row * columns + column`, with `row < rows` and `column < columns`, and name each once: "
    "`sorted(set(places))`"
)
def needed_within_grid(trial: Trial) -> None:
    """The tokens that an answer needs are distinct places in the grid, for every size of the grid."""
    for sample in trial.task.samples()[:MAX_SAMPLES]:
        for height, width in GRIDS:
            needed = trial.task.needed(sample, height, width)
            if needed is not None:
                inside = all(0 <= place < height * width for place in needed)
                require(inside, f"'{sample.id}' needs {sorted(needed)} of a grid of {height} x {width}")
                require(len(set(needed)) == len(needed), f"'{sample.id}' needs a token twice: {sorted(needed)}")


@cured_by(
    "hold everything in fields, of types that JSON holds; what is computed once goes into a "
    "`functools.cached_property`, and no file stays open",
    raised=True,
)
def travels(trial: Trial) -> None:
    """A task is equal after pickling, with which it is sent to other processes, and after loading it from JSON."""
    task = trial.task
    for what, again in (
        ("pickled", pickle.loads(pickle.dumps(task))),  # noqa: S301 - it was pickled right here
        ("written as JSON", type(task).model_validate_json(task.model_dump_json())),
    ):
        require(again == task and again.hash() == task.hash(), f"{what} and read back, it is another task")


TASK_LAWS: tuple[Law, ...] = (
    same_samples,
    unique_ids,
    card_is_json,
    card_changes,
    grades_are_alike,
    right_is_one,
    summary_has_the_metric,
    pictures_are_rgb,
    needed_within_grid,
    travels,
)
"""The laws of every task."""


class TaskConformance:
    """The laws that every task must keep, as tests.

    Attributes:
        task: the task under test. If it needs files, a fixture can make them and set the task on the class.
        others: by field another valid value; booleans, integers and the metric need none.
        unmarked: fields that are not in the card, each with the reason.
    """

    task: ClassVar[Task]
    others: ClassVar[Mapping[str, object]] = {}
    unmarked: ClassVar[Mapping[str, str]] = {}

    def right(self, sample: Sample) -> str | None:
        """Return a right answer, or none if there is none."""
        return Trial(self.task).right(sample)

    def wrong(self, sample: Sample) -> str:
        """Return a wrong answer."""
        return WRONG_ANSWER

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make a test for every law."""
        if "law" in metafunc.fixturenames:
            metafunc.parametrize("law", TASK_LAWS, ids=lambda law: law.__name__)

    def test_law(self, law: Law) -> None:
        """Try the task on one law."""
        law(Trial(self.task, self.others, self.unmarked, self.right, self.wrong))


def _close(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    return set(one) == set(other) and all(abs(one[name] - other[name]) < 1e-9 for name in one)
