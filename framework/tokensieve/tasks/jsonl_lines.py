"""The lines of a file of `vqa_jsonl`: their schema, and how they are read."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Never

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tokensieve.errors import TaskError, did_you_mean, listing

LONGEST_QUESTION = 32_768
"""The most characters of a question, with choices and OCR text."""
_PLACEHOLDER = re.compile(
    r"<\|?/?(?:image|video|img|vision)(?:_[a-z0-9_]*)?\|?>|\[IMG\]|<(?:start|end)_of_image>", re.IGNORECASE
)

_ANSWER_OBJECT = frozenset({"answer", "answer_confidence", "answer_id", "raw_answer"})
"""The keys of an answer as the annotations of VQAv2 and its kin have it; accuracy reads the answer alone."""
_ANSWER_FORM = 'a right answer is a text or a number, or an object such as VQAv2 has, {"answer": "red"}'
_FORMS = {
    "answer": _ANSWER_FORM,
    "answers": _ANSWER_FORM,
    "turns": 'turns are pairs of a question and its answer, [["What is it?", "A plate."]]',
}
"""By key, what a value looks like."""


class Line(BaseModel):
    """A line of a file: its keys, and the types of their values."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    question: str
    image: str | Annotated[tuple[str, ...], Field(strict=False)] | None = None
    video: str | Annotated[tuple[str, ...], Field(strict=False)] | None = None
    id: str | int | None = None
    answer: str | int | float | None = None
    answers: Annotated[tuple[str | int | float, ...], Field(strict=False)] = ()
    choices: Annotated[tuple[str, ...], Field(strict=False)] = ()
    turns: Annotated[
        tuple[Annotated[tuple[str, str], Field(strict=False)], ...],
        Field(strict=False),
    ] = ()
    kind: str = ""
    ocr: str | list[str] | None = None
    meta: Any = None

    @field_validator("answers", mode="before")
    @classmethod
    def _from_objects(cls, given: object) -> object:
        """Take the answers out of VQAv2's objects, listed one by one, or key by key as `datasets` exports them."""
        if isinstance(given, dict) and "answer" in given and given.keys() <= _ANSWER_OBJECT:
            return given["answer"]
        if not isinstance(given, list):
            return given
        objects = (isinstance(one, dict) and "answer" in one and one.keys() <= _ANSWER_OBJECT for one in given)
        return [one["answer"] if known else one for one, known in zip(given, objects, strict=True)]

    @property
    def right_answers(self) -> tuple[str, ...]:
        """All right answers, as texts."""
        given = self.answers if self.answer is None else (self.answer, *self.answers)
        return tuple(str(one) for one in given)

    @property
    def visual(self) -> tuple[str, ...]:
        """The names of the picture, of several, or of the video's frames or folder."""
        given = self.video if self.image is None else self.image
        return (given,) if isinstance(given, str) else given or ()

    @property
    def ocr_text(self) -> str:
        """The OCR text as it stands in a prompt."""
        return ", ".join(self.ocr) if isinstance(self.ocr, list) else self.ocr or ""


def parse_line(text: bytes) -> Line:
    """Read a line.

    Raises:
        TaskError: if it is no JSON object, has a key twice or an unknown key, lacks one, or a value has the wrong type.
    """
    try:
        data = json.loads(text.decode(), object_pairs_hook=_without_repeats, parse_constant=_no_constant)
        if b"\\u" in text:
            # JSON can write half a surrogate pair, which cannot be encoded.
            json.dumps(data, ensure_ascii=False).encode()
    # A JSONDecodeError, and what encoding and decoding raise, are ValueErrors, too.
    except (ValueError, RecursionError) as error:
        raise TaskError(f"this is not a JSON object: {error}") from None
    if not isinstance(data, dict):
        raise TaskError(f"a line is a JSON object, not {type(data).__name__}")
    try:
        return Line.model_validate(data)
    except ValidationError as error:
        detail = error.errors()[0]
        key = str(detail["loc"][0])
        if detail["type"] == "extra_forbidden":
            fields = list(Line.model_fields)
            hint = did_you_mean(key, fields) or " What is only yours can stand under 'meta'."
            raise TaskError(f"a line has no '{key}'; it has {listing(fields)}.{hint}") from None
        if detail["type"] == "missing" and len(detail["loc"]) == 1:
            raise TaskError(f"a line needs '{key}', and this one has none") from None
        form = f"; {_FORMS[key]}" if key in _FORMS else ""
        raise TaskError(f"'{key}' cannot be {detail['input']!r}: {detail['msg']}{form}") from None


def find_question_problem(question: str) -> str | None:
    """Return why a text cannot be asked: it is too long, or holds what stands for a picture; None if it can."""
    if len(question) > LONGEST_QUESTION:
        return (
            f"a question has at most {LONGEST_QUESTION} characters, with all that the prompt adds; "
            f"this one has {len(question)}"
        )
    found = _PLACEHOLDER.search(question)
    if found is None:
        return None
    return (
        f"the question holds '{found[0]}', which stands for a picture or video in the prompts of some models; "
        "remove it: the picture of the line is shown without it"
    )


def _no_constant(name: str) -> Never:
    """Refuse NaN and infinities, which Python reads and JSON does not have."""
    raise ValueError(f"{name} is no number of JSON")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict.

    Raises:
        ValueError: if a key occurs twice; Python would silently keep the last value.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"'{next(key for key in keys if keys.count(key) > 1)}' stands there twice")
    return found
