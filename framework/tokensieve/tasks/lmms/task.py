"""The task `lmms_eval`: documents, prompts and metrics of a task of lmms-eval, as samples and grades."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, field_validator, model_validator

from tokensieve.errors import TaskError, did_you_mean, listing
from tokensieve.models.pictures import Images, VisualInput
from tokensieve.tasks import files, metrics
from tokensieve.tasks.base import Answer, Sample, Task
from tokensieve.tasks.lmms.documents import pictures_and_text, read_samples
from tokensieve.tasks.lmms.grading import Metric, metrics_of, number_of, results, told_together
from tokensieve.tasks.lmms.loading import load_task

LONGEST = 1024
"""The most tokens of an answer where a task does not say it; lmms-eval's models have the same."""
YES_NO = ("said_yes", "is_yes")
"""What is counted beside the metric where a task tells what was said and what is right as yes or no, for F1."""


class LmmsEvalTask(Task):
    """A task of lmms-eval: its documents, its prompts, and its grade of every answer.

    Questions are those that `--model tokensieve` of lmms-eval is asked, where they are one turn with one picture and
    then a text; all else is refused. Grades are the numbers that the task gives an answer. A metric that is not their
    mean in lmms-eval, such as MME's sum, is not computed: its grade is called `NAME.score`, and the card says how
    lmms-eval makes one number of all answers.

    Attributes:
        task: the name of the task in lmms-eval.
        include_path: a folder with tasks beside those of lmms-eval.
        metric: by default the first metric of the task that is a mean.
        longest: the most tokens of an answer; by default what the task says.
    """

    name = "lmms_eval"

    task: str = Field(min_length=1)
    include_path: str | None = None
    # None is empty: it is set before it is read.
    metric: str = ""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        """Set the metric and the length of answers as the task of lmms-eval has them."""
        place = data.get("include_path") if isinstance(data, dict) else None
        if not isinstance(data, dict) or not isinstance(data.get("task"), str) or not isinstance(place, str | None):
            return data
        place = None if place is None else files.absolute(place)
        task = load_task(data["task"], place)
        longest = (task.config.generation_kwargs or {}).get("max_new_tokens") or LONGEST
        known = [metric.name for metric in metrics_of(data["task"], place)]
        given = {"longest": longest, **data, "metric": data.get("metric") or known[0]}
        if given["metric"] not in known:
            near = did_you_mean(str(given["metric"]), known)
            said = f"'{data['task']}' of lmms-eval has no metric '{given['metric']}'"
            raise ValueError(f"{said}; it has {listing(known)}.{near}")
        return given

    @field_validator("include_path")
    @classmethod
    def _placed(cls, value: str | None) -> str | None:
        return None if value is None else files.absolute(value)

    @property
    def _harness(self) -> Any:
        """The task of lmms-eval. It is not kept here, because a study sends its tasks to other processes."""
        return load_task(self.task, self.include_path)

    @property
    def _known(self) -> tuple[Metric, ...]:
        return metrics_of(self.task, self.include_path)

    @property
    def _chosen(self) -> Metric:
        return next(metric for metric in self._known if metric.name == self.metric)

    def samples(self) -> Sequence[Sample]:
        """Return a sample for every document that the metric grades; its id is the number of the document.

        Raises:
            TaskError: if a document cannot be read, or is of another kind.
        """
        return read_samples(self.task, self.include_path, self._chosen.of)[0]

    def picture(self, sample: Sample) -> Image.Image:
        """Return the picture of a document, RGB, or the first of several.

        Raises:
            TaskError: if the document is not pictures and then the question.
        """
        return self._pictures(sample)[0]

    def several_images(self, sample: Sample) -> Images | None:
        """Return the pictures of a document that has several, or none.

        Raises:
            TaskError: if the document is not pictures and then the question.
        """
        shown = self.shown(sample)
        return shown if isinstance(shown, Images) else None

    def shown(self, sample: Sample) -> VisualInput:
        """Return the picture of a document, or its pictures; it is decoded once.

        Raises:
            TaskError: if the document is not pictures and then the question.
        """
        pictures = self._pictures(sample)
        return pictures[0] if len(pictures) == 1 else Images(pictures)

    def _pictures(self, sample: Sample) -> tuple[Image.Image, ...]:
        pictures, text = pictures_and_text(self.task, self._harness, int(sample.id))
        if text != sample.question:
            raise TaskError(f"document {sample.id} of '{self.task}' asks otherwise with its pictures than without")
        return pictures

    def grade(self, sample: Sample, answer: Answer, unpruned: Answer | None) -> Mapping[str, float]:
        """Grade an answer as lmms-eval does: cut where the task ends answers, filtered, and then graded.

        Raises:
            TaskError: if the task cannot grade it, or the metric is not from 0 to 1.
        """
        given = results(self.task, self._harness, int(sample.id), answer.text)
        grades = {}
        for metric in told_together(self._known, self._chosen, given):
            value = number_of(given.get(metric.of), self._harness)
            if value is None:
                raise TaskError(f"'{self.task}' of lmms-eval gives no {metric.of} for document {sample.id}")
            grades[metric.name] = value
        if not 0 <= grades[self.metric] <= 1:
            raise TaskError(
                f"{self.metric} of '{self.task}' is {grades[self.metric]:g} for document {sample.id}, and methods are "
                f"compared by numbers from 0 to 1; choose another metric: {listing(one.name for one in self._known)}"
            )
        return grades | _yes_no(given[self._chosen.of])

    def summary(self, grades: Mapping[str, NDArray[np.float64]]) -> Mapping[str, float]:
        """Return the means; where a task tells yes from no, also precision, recall, F1 and the share of yes."""
        means = super().summary({name: values for name, values in grades.items() if name not in YES_NO})
        if not set(YES_NO) <= set(grades):
            return means
        return {**metrics.detection(grades["said_yes"], grades["is_yes"]), **means}

    def card(self) -> dict[str, Any]:
        """Return the protocol: version, flags, code and documents of the task, and how lmms-eval aggregates metrics."""
        task = self._harness
        samples, content = read_samples(self.task, self.include_path, self._chosen.of)
        card = super().card()
        del card["include_path"]
        # Those of all models stand beside those that are used.
        flags = {k: v for k, v in (task.lmms_eval_specific_kwargs or {}).items() if not isinstance(v, dict)}
        how = {metric.of: metric.how for metric in self._known}
        return card | {
            "task": self.name,
            "of": self.task,
            "lmms_eval": metadata.version("lmms-eval"),
            "task_version": _plain(_version(task.config.metadata)),
            "flags": _plain(flags),
            "ocr": _plain(flags.get("ocr", "the task has no such flag")),
            "generation": _plain(task.config.generation_kwargs or {}),
            "filter": task._filters[0].name,
            "dataset": [task.config.dataset_path, task.config.dataset_name, task.config.test_split or "validation"],
            "samples": len(samples),
            "left_out": len(task.eval_docs_no_media) - len(samples),
            "content": content,
            "code": _code(task),
            "aggregated": {
                name: how.get(name, "not computed: no number for an answer")
                if how.get(name) != "otherwise"
                else f"not computed: {_called(aggregate)} of all answers, no mean"
                for name, aggregate in task.aggregation().items()
            },
        }


def _yes_no(value: Any) -> dict[str, float]:
    """Return what was said and what is right, where a metric tells both as yes or no."""
    if not isinstance(value, Mapping) or value.get("ground_truth") not in ("yes", "no"):
        return {}
    return {"said_yes": float(value.get("prediction") == "yes"), "is_yes": float(value["ground_truth"] == "yes")}


def _plain(value: Any) -> Any:
    """Return a value of a task's configuration as plain JSON."""
    return json.loads(json.dumps(value, default=_called, sort_keys=True))


def _called(thing: Any) -> str:
    return getattr(thing, "__name__", None) or type(thing).__name__


def _version(said: Any) -> Any:
    """Return the version of a task, which stands in its metadata or in a list of these."""
    for one in said if isinstance(said, list) else [said]:
        if isinstance(one, Mapping) and "version" in one:
            return one["version"]
    return "not said"


def _code(task: Any) -> str:
    """Return a hash of the files of the task's own functions."""
    config = task.config
    own = [config.doc_to_visual, config.doc_to_text, config.doc_to_target, config.doc_to_messages, config.process_docs]
    found = {inspect.getsourcefile(one) for one in (*own, config.process_results) if callable(one)}
    total = hashlib.sha256()
    for file in sorted(name for name in found if name is not None):
        total.update(Path(file).read_bytes())
    return total.hexdigest()[:16]
