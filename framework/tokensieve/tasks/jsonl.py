"""The task `vqa_jsonl`: your own pictures, questions and answers, one JSON object a line."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Never, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tokensieve.errors import TaskError, did_you_mean, listing
from tokensieve.models.pictures import Video
from tokensieve.tasks import files, metrics
from tokensieve.tasks.base import Answer, Sample, Task

SHORT = "{question}\nAnswer the question using a single word or phrase."
SHORT_WITH_OCR = "{question}\nReference OCR token: {ocr}\nAnswer the question using a single word or phrase."
LETTER = "{question}\n{choices}\nAnswer with the option's letter from the given choices directly."
LETTER_WITH_OCR = (
    "{question}\n{choices}\nReference OCR token: {ocr}\n"
    "Answer with the option's letter from the given choices directly."
)


@dataclass(frozen=True)
class Metric:
    """A way to grade answers.

    Attributes:
        definition: what it computes, for the card.
        grade: gives the grade of an answer to a sample.
        check: says what is wrong with a sample's answers, or nothing.
    """

    definition: str
    grade: Callable[[str, Sample], float]
    check: Callable[[Sample], str | None] = lambda sample: None


def _too_few(sample: Sample) -> str | None:
    if len(sample.answers) >= metrics.FEWEST_ANNOTATORS:
        return None
    return (
        f"VQA accuracy needs what {metrics.ANNOTATORS} people answered, and there are {len(sample.answers)}; "
        "with one right answer, take the metric 'exact'"
    )


def _no_yes(sample: Sample) -> str | None:
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
        _too_few,
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
        _no_yes,
    ),
}
"""What the field `metric` takes."""


class _Line(BaseModel):
    """A line of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    question: str
    image: str | None = None
    video: str | Annotated[tuple[str, ...], Field(strict=False)] | None = None
    id: str | int | None = None
    answer: str | int | float | None = None
    answers: Annotated[tuple[str | int | float, ...], Field(strict=False)] = ()
    choices: Annotated[tuple[str, ...], Field(strict=False)] = ()
    kind: str = ""
    ocr: str | list[str] | None = None
    meta: Any = None

    @property
    def right(self) -> tuple[str, ...]:
        """All right answers, as texts."""
        given = self.answers if self.answer is None else (self.answer, *self.answers)
        return tuple(str(one) for one in given)

    @property
    def words(self) -> str:
        """The OCR text, as prompts write it."""
        return ", ".join(self.ocr) if isinstance(self.ocr, list) else self.ocr or ""


@dataclass(frozen=True)
class _Content:
    """What was read, once.

    Attributes:
        samples: of the subset.
        lines: the hash of the file.
        subset: the hash of the ids that were listed, their number if they were drawn, or none.
    """

    samples: tuple[Sample, ...]
    lines: str
    subset: str | int | None


class VqaJsonl(Task):
    """Your own pictures or videos, questions and answers, one JSON object a line.

    A line has `image` (a file under `images`) or, in all lines of a file, `video` (a folder of frames there, in the
    order of their names and numbers, or a list of files), `question`, `answer` or `answers`, and where they apply
    `id`, `choices`, `kind` (for breakdowns), `ocr` (the text in the picture, or a list of its words) and `meta`
    (yours, not looked at).

    Attributes:
        path: the file.
        images: the folder of the pictures and videos; the file's own folder by default.
        metric: one of `METRICS`.
        longest: how many tokens an answer may have.
        prompt: the user's turn, with `{question}`, and `{choices}` and `{ocr}` where they apply; by default what is
            usual for the metric.
        ocr: whether the text in the picture is given in the prompt.
        longest_side: larger pictures are shrunk to so many pixels; none is enlarged.
        frames: of a video that are shown, evenly from its first to its last, some twice if it has fewer; all of them by
            default.
        subset: how many samples are drawn, or a file with an id on each line; all of them by default.
        subset_seed: of the draw.
    """

    name = "vqa_jsonl"

    path: str
    images: str | None = None
    metric: str = "exact"
    longest: int = Field(default=16, ge=1)
    prompt: str | None = None
    ocr: bool = False
    longest_side: int | None = Field(default=None, ge=1)
    frames: int | None = Field(default=None, ge=1)
    subset: Annotated[int, Field(ge=1)] | str | None = None
    subset_seed: int = 0

    said: ClassVar[tuple[str, ...]] = ("question", "choices", "ocr")
    """What a prompt can hold."""

    @field_validator("path", "images", "subset")
    @classmethod
    def _placed(cls, value: str | int | None) -> str | int | None:
        return files.absolute(value) if isinstance(value, str) else value

    @field_validator("metric")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in METRICS:
            raise ValueError(
                f"no metric is named '{value}'. There are: {listing(METRICS)}.{did_you_mean(value, METRICS)}"
            )
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Check the prompt: what is in it, and that `ocr` says the same."""
        try:
            parts = list(string.Formatter().parse(self.template))
        except ValueError as error:
            raise ValueError(f"the prompt {self.template!r} cannot be read: {error}; write {{{{ for a brace") from None
        names = [name for _, name, _, _ in parts if name is not None]
        strange = [name for name in names if name not in self.said]
        if strange or any(form or conversion for _, _, form, conversion in parts):
            raise ValueError(f"the prompt {self.template!r} holds more than {{question}}, {{choices}} and {{ocr}}")
        if "question" not in names:
            raise ValueError(f"the prompt {self.template!r} does not hold {{question}}")
        if self.ocr != ("ocr" in names):
            raise ValueError(f"ocr is {self.ocr}, and the prompt {self.template!r} says otherwise")
        if "choices" in names and self.metric != "choice":
            raise ValueError(f"the prompt {self.template!r} lists choices, but the metric is '{self.metric}'")
        return self

    @property
    def template(self) -> str:
        """The prompt, or what is usual."""
        if self.prompt is not None:
            return self.prompt
        if self.metric == "choice":
            return LETTER_WITH_OCR if self.ocr else LETTER
        return SHORT_WITH_OCR if self.ocr else SHORT

    @property
    def folder(self) -> Path:
        """Where the pictures are."""
        return Path(self.path).parent if self.images is None else Path(self.images)

    def samples(self) -> Sequence[Sample]:
        """Return the samples in the order of the file.

        Raises:
            TaskError: if the file cannot be read, or a line of it cannot be used.
        """
        return self._content.samples

    def picture(self, sample: Sample) -> Image.Image:
        """Return a sample's picture, RGB, or the middle frame of its video.

        Raises:
            TaskError: if it cannot be read.
        """
        shown = self._shown(sample)
        return files.picture(self.folder / shown[len(shown) // 2], self.longest_side)

    def video(self, sample: Sample) -> Video | None:
        """Return a sample's video, or none where it is about a picture.

        Raises:
            TaskError: if a frame cannot be read, or frames are of several sizes.
        """
        if not sample.video:
            return None
        shown = self._shown(sample)
        frames = {name: files.picture(self.folder / name, self.longest_side) for name in dict.fromkeys(shown)}
        sizes = sorted({frame.size for frame in frames.values()})
        if len(sizes) > 1:
            said = listing(f"{width} x {height}" for width, height in sizes)
            raise TaskError(f"the frames of the video {self.folder / sample.image} are of several sizes: {said}")
        return Video(tuple(frames[name] for name in shown))

    def _shown(self, sample: Sample) -> list[str]:
        """Return the files of what a model is shown."""
        names = self._files(sample)
        if not names:
            raise TaskError(f"there is no picture in {self.folder / sample.image}, which should hold a video's frames")
        return files.evenly(names, self.frames) if sample.video else list(names)

    def grade(self, sample: Sample, answer: Answer, unpruned: Answer | None) -> Mapping[str, float]:
        """Grade an answer by the metric.

        Returns:
            The metric; for `choice` and `yes_no` also whether the answer could be `understood`; for `yes_no` what
            `summary` counts.
        """
        grade = {self.metric: METRICS[self.metric].grade(answer.text, sample)}
        if self.metric == "choice":
            grade["understood"] = float(metrics.chosen(answer.text, sample.choices) is not None)
        if self.metric == "yes_no":
            says = metrics.said(answer.text)
            grade["understood"] = float(says is not None)
            grade["said_yes"] = float(says == "yes")
            grade["is_yes"] = float(metrics.said(sample.answers[0]) == "yes")
        return grade

    def summary(self, grades: Mapping[str, NDArray[np.float64]]) -> Mapping[str, float]:
        """Return the means; for `yes_no` accuracy with precision, recall, F1 and the share of yes, as POPE does."""
        if self.metric != "yes_no":
            return super().summary(grades)
        means = super().summary({name: grades[name] for name in ("yes_no", "understood")})
        return {**means, **metrics.detection(grades["said_yes"], grades["is_yes"])}

    def card(self) -> dict[str, Any]:
        """Return the protocol, and hashes of the file and of the pictures' names and sizes, without paths."""
        card = super().card()
        del card["path"], card["images"]
        return card | {
            "prompt": self.template,
            "definition": METRICS[self.metric].definition,
            "samples": len(self._content.samples),
            "lines": self._content.lines,
            "pictures": self._pictures,
            "subset": self._content.subset,
            "subset_seed": self.subset_seed if isinstance(self.subset, int) else None,
        }

    # ------------------------------------------------------------------------------------ reading

    @cached_property
    def _pictures(self) -> str:
        """What stands for the pictures: looked up once, for there may be many, and a card for each cell."""
        return files.identity(self.folder, (name for sample in self._content.samples for name in self._files(sample)))

    def _files(self, sample: Sample) -> tuple[str, ...]:
        """Return the files of a sample's picture or video, by their places under the folder."""
        if len(sample.video) == 1 and (self.folder / sample.image).is_dir():
            return tuple(f"{sample.image}/{name}" for name in files.frames_in(self.folder / sample.image))
        return sample.video or (sample.image,)

    @cached_property
    def _content(self) -> _Content:
        content = _read(self.path)
        samples: dict[str, Sample] = {}
        lines: dict[str, int] = {}
        for number, text in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
            if text.strip():
                sample = self._sample(text, number)
                if sample.id in samples:
                    self._refuse(f"the id '{sample.id}' is that of line {lines[sample.id]}, too", number)
                samples[sample.id], lines[sample.id] = sample, number
                first = next(iter(samples))
                if bool(sample.video) != bool(samples[first].video):
                    other = "image" if sample.video else "video"
                    self._refuse(
                        f"a file is all of pictures or all of videos, and line {lines[first]} has {other}", number
                    )
        if not samples:
            self._refuse("there is no sample in this file", 1)
        chosen, subset = self._subset(list(samples))
        kept = tuple(sample for sample in samples.values() if sample.id in chosen)
        return _Content(kept, files.digest(content), subset)

    def _sample(self, text: bytes, number: int) -> Sample:
        line = self._line(text, number)
        right = line.right
        if line.answer is not None and line.answers:
            self._refuse("a line has answer or answers, not both", number)
        if not right:
            self._refuse("a line has answer, or answers, at least one", number)
        if (line.image is None) == (line.video is None):
            has = "none" if line.image is None else "both"
            self._refuse(f"a line needs 'image' or 'video', one of them, and this one has {has}", number)
        video = (line.video,) if isinstance(line.video, str) else line.video or ()
        if line.video is not None and not video:
            self._refuse("a video has at least one frame, or is a folder of frames", number)
        for name in video if line.image is None else (line.image,):
            place = PurePosixPath(name)
            if not name or "\0" in name or place.is_absolute() or ".." in place.parts:
                what = "an image" if line.image is not None else "a video's folder or frame"
                self._refuse(f"{what} is named by its place under {self.folder}, not {name!r}", number)
        if self.ocr and line.ocr is None:
            self._refuse("ocr is in the prompt, and this line has none; an empty one is []", number)
        if self.metric == "choice":
            right = self._choices(line, number)
        sample = Sample(
            id=str(number if line.id is None else line.id),
            question=self.template.format(
                question=line.question, choices=metrics.lettered(line.choices), ocr=line.words
            ),
            image=" + ".join(video) if line.image is None else line.image,
            answers=right,
            kind=line.kind,
            choices=line.choices,
            video=video,
        )
        wrong = METRICS[self.metric].check(sample)
        if wrong is not None:
            self._refuse(wrong, number)
        return sample

    def _line(self, text: bytes, number: int) -> _Line:
        try:
            data = json.loads(text.decode(), object_pairs_hook=_once)
            if b"\\u" in text:
                # Half a character, which JSON can write and nothing else takes.
                json.dumps(data, ensure_ascii=False).encode()
        # A JSONDecodeError, and what encoding and decoding raise, are ValueErrors, too.
        except (ValueError, RecursionError) as error:
            self._refuse(f"this is not a JSON object: {error}", number)
        if not isinstance(data, dict):
            self._refuse(f"a line is a JSON object, not {type(data).__name__}", number)
        try:
            return _Line.model_validate(data)
        except ValidationError as error:
            detail = error.errors()[0]
            key = str(detail["loc"][0])
            if detail["type"] == "extra_forbidden":
                fields = list(_Line.model_fields)
                hint = did_you_mean(key, fields) or " What is only yours can stand under 'meta'."
                self._refuse(f"a line has no '{key}'; it has {listing(fields)}.{hint}", number)
            if detail["type"] == "missing":
                self._refuse(f"a line needs '{key}', and this one has none", number)
            self._refuse(f"'{key}' cannot be {detail['input']!r}: {detail['msg']}", number)

    def _choices(self, line: _Line, number: int) -> tuple[str, ...]:
        """Return the right choices by their text, given by text or by letter."""
        texts = [metrics.plain(choice) for choice in line.choices]
        letters = metrics.LETTERS[: len(texts)]
        if not 2 <= len(texts) <= len(metrics.LETTERS) or len(set(texts)) < len(texts) or "" in texts:
            self._refuse(f"choices are 2 to {len(metrics.LETTERS)} different texts", number)
        for place, text in enumerate(texts):
            if text.upper() in letters and letters.index(text.upper()) != place:
                self._refuse(f"choice {letters[place]} is '{line.choices[place]}', the letter of another", number)
        right = []
        for answer in line.right:
            found = metrics.plain(answer)
            if found in texts:
                right.append(line.choices[texts.index(found)])
            elif found and found.upper() in letters:
                right.append(line.choices[letters.index(found.upper())])
            else:
                self._refuse(f"the answer {answer!r} is none of the choices, and no letter of one", number)
        return tuple(right)

    def _subset(self, ids: list[str]) -> tuple[frozenset[str], str | int | None]:
        """Return the ids that are asked for, and what stands for them in the card."""
        if self.subset is None:
            return frozenset(ids), None
        if isinstance(self.subset, int):
            if self.subset > len(ids):
                raise TaskError(f"subset is {self.subset}, and {self.path} holds {len(ids)} samples")
            return files.drawn(ids, self.subset, self.subset_seed), self.subset
        known, asked = set(ids), []
        for number, text in enumerate(_read(self.subset).splitlines(), 1):
            one = text.decode(errors="replace").strip()
            if one and one not in known:
                raise TaskError(f"no sample of {self.path} has the id '{one}'  ({self.subset}:{number})")
            asked += [one] if one else []
        if not asked:
            raise TaskError(f"there is no id in this file  ({self.subset}:1)")
        return frozenset(asked), files.digest("\n".join(sorted(set(asked))).encode())

    def _refuse(self, why: str, number: int) -> Never:
        raise TaskError(f"{why}  ({self.path}:{number})")


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise TaskError(f"the file {path} cannot be read: {error.strerror or error}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a mapping of a JSON object, of which Python would keep the last of two values.

    Raises:
        ValueError: if a key stands there twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"'{next(key for key in keys if keys.count(key) > 1)}' stands there twice")
    return found
