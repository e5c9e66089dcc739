"""Published numbers beside one's own, read from a YAML file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import ConfigDict, Field, ValidationError, field_validator

from tokensieve.composers.settings import Value
from tokensieve.errors import RecipeError, StudyError, cure_of, did_you_mean, listing
from tokensieve.recipes import yaml_lines
from tokensieve.study.analysis.comparison import Comparison


class PublishedResult(Value):
    """Published numbers of a method at a budget. Nothing is computed from them but their own relative average.

    Attributes:
        source: where the numbers are printed, such as `DivPrune, CVPR 2025, Table 1`.
        cite: the citation key of the source.
        model: the model's name in the study.
        method: the method's name; `unpruned` for the model as it is.
        keep: the study's budget under which the numbers stand; none for the unpruned model.
        values: the printed numbers, in per cent, by the task's name in the study.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    source: str = Field(min_length=1)
    cite: str | None = Field(default=None, pattern=r"^[^\s{},\\%#~]+$")
    model: str
    method: str = Field(min_length=1)
    keep: str | None = None
    values: Mapping[str, float] = Field(min_length=1)

    @field_validator("keep", mode="before")
    @classmethod
    def _read_keep(cls, value: object) -> object:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("values", mode="before")
    @classmethod
    def _read_values(cls, values: object) -> object:
        if not isinstance(values, Mapping):
            return values
        return {task: float(v) if isinstance(v, float) else v for task, v in values.items()}

    @property
    def label(self) -> str:
        """Return the name of the row."""
        return f"{self.method}, published"


def read_published(path: Path, comparisons: Sequence[Comparison]) -> tuple[PublishedResult, ...]:
    """Read a list of published results that stand beside those of comparisons.

    Raises:
        StudyError: if the file cannot be read, an entry is not valid, or the study has no such model, task or budget;
            the error names file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise StudyError(f"{path} cannot be read: {error}") from None
    try:
        document = yaml_lines.read(text, str(path))
    except RecipeError as error:
        raise StudyError(str(error)) from None

    def refused(message: str, where: yaml_lines.Path) -> StudyError:
        return StudyError(f"{message}  ({path}:{document.line(where)})")

    if not isinstance(document.data, list) or not document.data:
        raise refused("published numbers are a list; each entry has source, model, method, keep and values", ())
    found = []
    for number, entry in enumerate(document.data):
        if not isinstance(entry, dict):
            raise refused("an entry is a mapping with source, model, method, keep and values", (number,))
        try:
            one = PublishedResult.model_validate(entry)
        except ValidationError as error:
            detail = error.errors()[0]
            place = ".".join(map(str, detail["loc"])) or "it"
            raise refused(
                f"{place}: {cure_of(detail)}; an entry has {listing(PublishedResult.model_fields)}",
                (number, *detail["loc"]),
            ) from None
        for where, message in _mistakes(one, comparisons):
            raise refused(message, (number, *where))
        found.append(one)
    return tuple(found)


def _mistakes(one: PublishedResult, comparisons: Sequence[Comparison]) -> Iterator[tuple[yaml_lines.Path, str]]:
    """Yield where an entry does not fit the study, and why."""

    def unknown(what: str, name: str, known: Sequence[str]) -> str:
        return f"the report has no {what} '{name}'; it has {listing(known)}.{did_you_mean(name, known)}"

    models = list(dict.fromkeys(comparison.model for comparison in comparisons))
    if one.model not in models:
        yield ("model",), unknown("model", one.model, models)
    own = [comparison for comparison in comparisons if comparison.model == one.model]
    for task in one.values:
        tasks = list(dict.fromkeys(comparison.task for comparison in own))
        if task not in tasks:
            yield ("values", task), unknown("task", task, tasks)
    keeps = list(dict.fromkeys(keep for comparison in own for keep in comparison.keeps))
    if one.keep is not None and one.keep not in keeps:
        yield ("keep",), unknown("budget", one.keep, keeps)
    if (one.keep is None) != (one.method == "unpruned"):
        yield (), "published numbers need a keep, except those of 'unpruned'"


def published_in(
    published: Sequence[PublishedResult], model: str, keep: str | None, tasks: Sequence[str]
) -> list[PublishedResult]:
    """Return the published results of a model at a budget that have a number of any of the tasks."""
    return [one for one in published if (one.model, one.keep) == (model, keep) and set(one.values) & set(tasks)]


def published_relative(
    one: PublishedResult, published: Sequence[PublishedResult], tasks: Sequence[str]
) -> float | None:
    """Return the mean ratio, in per cent, to the unpruned model of the same source; none unless all is published."""
    own = (one.source, one.model, None)
    found = (other.values for other in published if (other.source, other.model, other.keep) == own)
    whole: Mapping[str, float] = next(found, {})
    if any(task not in one.values or not whole.get(task) for task in tasks):
        return None
    return 100 * float(np.mean([one.values[task] / whole[task] for task in tasks]))


def published_notes(shown: Sequence[PublishedResult]) -> tuple[str, ...]:
    """Return the note below a table with published results."""
    if not shown:
        return ()
    sources: dict[str, list[str]] = {}
    for one in shown:
        sources.setdefault(one.source, []).append(one.method)
    named = "; ".join(f"{', '.join(dict.fromkeys(methods))}: {source}" for source, methods in sources.items())
    return (f"Published: copied from the source, not measured here, and neither ranked nor compared. {named}.",)
