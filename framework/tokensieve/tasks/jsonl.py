"""The task `vqa_jsonl`: your own pictures, questions and answers, one JSON object on each line of a file."""

from __future__ import annotations

import os
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Never, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, field_validator, model_validator

from tokensieve.errors import TaskError, did_you_mean, listing
from tokensieve.models.pictures import Images, Video
from tokensieve.tasks import files, metrics
from tokensieve.tasks.base import Answer, Sample, Task, Turn
from tokensieve.tasks.jsonl_lines import Line, find_question_problem, parse_line
from tokensieve.tasks.metric_table import METRICS

SHORT = "{question}\nAnswer the question using a single word or phrase."
SHORT_WITH_OCR = "{question}\nReference OCR token: {ocr}\nAnswer the question using a single word or phrase."
LETTER = "{question}\n{choices}\nAnswer with the option's letter from the given choices directly."
LETTER_WITH_OCR = (
    "{question}\n{choices}\nReference OCR token: {ocr}\n"
    "Answer with the option's letter from the given choices directly."
)


@dataclass(frozen=True)
class _Content:
    """The content of a file, which is read once.

    Attributes:
        samples: the samples of the subset.
        lines: the hash of the file.
        subset: the hash of the listed ids, their number if they were drawn, or none.
    """

    samples: tuple[Sample, ...]
    lines: str
    subset: str | int | None


class VqaJsonl(Task):
    """Your own pictures or videos, questions and answers, one JSON object a line.

    A line has `image` (a file in the folder `images`, or a list of them for several pictures in one prompt) or, on all
    lines of a file, `video` (a folder of frames there, in the order of their names and numbers, or a list of files),
    `question`, `answer` or `answers`, and optionally `id`, `choices`, `kind` (the type of question, for breakdowns),
    `turns` (pairs of a question and its answer that come before, see `Sample`), `ocr` (the text in the picture, or a
    list of its words) and `meta` (your own notes, which are not read).

    Attributes:
        path: the file.
        images: the folder of the pictures and videos; by default the folder of the file.
        metric: one of `METRICS`.
        longest: the most tokens of an answer.
        prompt: the user's turn, with `{question}`, and `{choices}` and `{ocr}` where they apply; by default what is
            usual for the metric.
        ocr: whether the prompt contains the text in the picture.
        longest_side: in pixels; larger pictures are shrunk to it, none is enlarged.
        frames: how many frames of a video are shown, at even distances from the first to the last, some twice if the
            video has fewer; by default all of them.
        subset: how many samples are drawn, or a file with an id on each line; by default all samples.
        subset_seed: the seed of the draw.
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

    prompt_fields: ClassVar[tuple[str, ...]] = ("question", "choices", "ocr")
    """The fields that a prompt can contain."""

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
        """Check the fields of the prompt, and that `ocr` agrees with them."""
        try:
            parts = list(string.Formatter().parse(self.template))
        except ValueError as error:
            raise ValueError(f"the prompt {self.template!r} cannot be read: {error}; write {{{{ for a brace") from None
        names = [name for _, name, _, _ in parts if name is not None]
        strange = [name for name in names if name not in self.prompt_fields]
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
        """The prompt, or the usual one of the metric."""
        if self.prompt is not None:
            return self.prompt
        if self.metric == "choice":
            return LETTER_WITH_OCR if self.ocr else LETTER
        return SHORT_WITH_OCR if self.ocr else SHORT

    @property
    def folder(self) -> Path:
        """The folder of the pictures."""
        return Path(self.path).parent if self.images is None else Path(self.images)

    def samples(self) -> Sequence[Sample]:
        """Return the samples in the order of the file.

        Raises:
            TaskError: if the file cannot be read, or a line of it cannot be used.
        """
        return self._content.samples

    def picture(self, sample: Sample) -> Image.Image:
        """Return a sample's picture, RGB, or the middle one of its several pictures or frames.

        Raises:
            TaskError: if it cannot be read.
        """
        shown = self._shown_files(sample)
        return files.picture(self.folder / shown[len(shown) // 2], self.longest_side)

    def video(self, sample: Sample) -> Video | None:
        """Return a sample's video, or none where it is about a picture.

        Raises:
            TaskError: if a frame cannot be read, or frames are of several sizes.
        """
        if not sample.video:
            return None
        shown = self._shown_files(sample)
        frames = {name: files.picture(self.folder / name, self.longest_side) for name in dict.fromkeys(shown)}
        sizes = sorted({frame.size for frame in frames.values()})
        if len(sizes) > 1:
            said = listing(f"{width} x {height}" for width, height in sizes)
            raise TaskError(f"the frames of the video {self.folder / sample.image} are of several sizes: {said}")
        return Video(tuple(frames[name] for name in shown))

    def several_images(self, sample: Sample) -> Images | None:
        """Return a sample's pictures if it is about several, or none.

        Raises:
            TaskError: if one cannot be read.
        """
        if not sample.images:
            return None
        return Images(tuple(files.picture(self.folder / name, self.longest_side) for name in sample.images))

    def _shown_files(self, sample: Sample) -> list[str]:
        """Return the files of the picture, or of the frames that are shown."""
        names = self._files(sample)
        if not names:
            raise TaskError(f"there is no picture in {self.folder / sample.image}, which should hold a video's frames")
        return files.evenly(names, self.frames) if sample.video else list(names)

    def grade(self, sample: Sample, answer: Answer, unpruned: Answer | None) -> Mapping[str, float]:
        """Grade an answer by the metric.

        Returns:
            The metric; for `choice` and `yes_no` also `understood`, whether the answer could be read; for `yes_no` also
            what `summary` counts.
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
        """The hash of the pictures, computed once: there may be many pictures, and every cell has a card."""
        return files.identity(self.folder, (name for sample in self._content.samples for name in self._files(sample)))

    def _files(self, sample: Sample) -> tuple[str, ...]:
        """Return the files of a sample's pictures or video, by their paths in the folder."""
        if len(sample.video) == 1 and os.path.isdir(self.folder / sample.image):
            return tuple(f"{sample.image}/{name}" for name in files.frames_in(self.folder / sample.image))
        return sample.video or sample.images or (sample.image,)

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
        try:
            line = parse_line(text)
        except TaskError as error:
            self._refuse(str(error), number)
        right = line.right_answers
        if line.answer is not None and line.answers:
            self._refuse("a line has answer or answers, not both", number)
        if not right:
            self._refuse("a line has answer, or answers, at least one", number)
        if (line.image is None) == (line.video is None):
            has = "none" if line.image is None else "both"
            self._refuse(f"a line needs 'image' or 'video', one of them, and this one has {has}", number)
        if not line.visual:
            wanted = (
                "a video has at least one frame, or is a folder of frames" if line.image is None else "image is empty"
            )
            self._refuse(wanted, number)
        for name in line.visual:
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
                question=line.question, choices=metrics.lettered(line.choices), ocr=line.ocr_text
            ),
            image=" + ".join(line.visual),
            answers=right,
            kind=line.kind,
            choices=line.choices,
            video=() if line.video is None else line.visual,
            images=line.visual if line.image is not None and len(line.visual) > 1 else (),
            turns=tuple(Turn(*one) for one in line.turns),
        )
        asked = [*(turn.question for turn in sample.turns), sample.question]
        wrong = next(filter(None, map(find_question_problem, asked)), None) or METRICS[self.metric].check(sample)
        if wrong is not None:
            self._refuse(wrong, number)
        return sample

    def _choices(self, line: Line, number: int) -> tuple[str, ...]:
        """Return the texts of the right choices, which a line gives by text or by letter."""
        texts = [metrics.plain(choice) for choice in line.choices]
        letters = metrics.LETTERS[: len(texts)]
        if not 2 <= len(texts) <= len(metrics.LETTERS) or len(set(texts)) < len(texts) or "" in texts:
            self._refuse(f"choices are 2 to {len(metrics.LETTERS)} different texts", number)
        for place, text in enumerate(texts):
            if text.upper() in letters and letters.index(text.upper()) != place:
                self._refuse(f"choice {letters[place]} is '{line.choices[place]}', the letter of another", number)
        right = []
        for answer in line.right_answers:
            found = metrics.plain(answer)
            if found in texts:
                right.append(line.choices[texts.index(found)])
            elif found and found.upper() in letters:
                right.append(line.choices[letters.index(found.upper())])
            else:
                self._refuse(f"the answer {answer!r} is none of the choices, and no letter of one", number)
        return tuple(right)

    def _subset(self, ids: list[str]) -> tuple[frozenset[str], str | int | None]:
        """Return the ids of the subset, and what identifies the subset in the card."""
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
    file = Path(path)
    if os.path.exists(file) and not file.is_file():
        raise TaskError(f"{path} is a folder, a pipe or a device; name a file")
    try:
        return file.read_bytes()
    except OSError as error:
        raise TaskError(f"the file {path} cannot be read: {error.strerror or error}") from None
