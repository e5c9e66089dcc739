"""The documents of a task of lmms-eval as samples of a study."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Any

from PIL import Image

from tokensieve.errors import RefusedError, TaskError, short_message
from tokensieve.models.picture_files import as_rgb
from tokensieve.tasks.base import Sample
from tokensieve.tasks.lmms.grading import results, right_answers
from tokensieve.tasks.lmms.loading import load_task


@lru_cache(maxsize=8)
def read_samples(name: str, include_path: str | None, metric: str) -> tuple[tuple[Sample, ...], str]:
    """Return the samples of a task that a metric grades, and a hash of their questions, answers and pictures.

    Raises:
        TaskError: if a document cannot be read, or is not pictures and then a text.
    """
    task = load_task(name, include_path)
    keys = picture_keys(task)
    samples = []
    for number in range(len(task.eval_docs_no_media)):
        # Each document of MME is graded by one of two metrics.
        if metric not in results(name, task, number, ""):
            continue
        try:
            question, answers = _question(name, task, number), right_answers(task, number)
            kind = task.eval_docs_no_media[number].get("category")
        except TaskError:
            raise
        # The functions of a task can raise anything.
        except Exception as error:
            raise _unreadable(name, number, error) from None
        kind = kind if isinstance(kind, str) else ""
        samples.append(Sample(id=str(number), question=question, image=keys[number], answers=answers, kind=kind))
    if not samples:
        raise TaskError(f"no document of '{name}' of lmms-eval is graded by {metric}")
    # The first one tells whether documents are of the kind that a study asks; each is looked at again when it is asked.
    pictures_and_text(name, task, int(samples[0].id))
    told = json.dumps([[one.id, one.question, one.image, one.answers] for one in samples])
    return tuple(samples), hashlib.sha256(told.encode()).hexdigest()[:16]


def _question(name: str, task: Any, number: int) -> str:
    if callable(task.config.doc_to_messages):
        return pictures_and_text(name, task, number)[1]
    return str(task.doc_to_text(task.eval_docs_no_media[number]))


def _unreadable(name: str, number: int, error: Exception) -> TaskError:
    return TaskError(f"document {number} of '{name}' of lmms-eval cannot be read: {short_message(error)}")


def pictures_and_text(name: str, task: Any, number: int) -> tuple[tuple[Image.Image, ...], str]:
    """Return the pictures and the text of a document, as `--model tokensieve` of lmms-eval is asked.

    Raises:
        TaskError: unless a document is one turn of a user, with pictures that can be read and then one text.
    """
    try:
        messages = task.doc_to_messages(task.eval_docs[number]) or []
    # The functions of a task can raise anything.
    except Exception as error:
        raise _unreadable(name, number, error) from None
    parts = messages[0]["content"] if len(messages) == 1 and messages[0].get("role") == "user" else []
    kinds = [part.get("type") for part in parts]
    pictures = [part.get("url") for part in parts[:-1]]
    if kinds != ["image"] * len(pictures) + ["text"] or not pictures or not all(map(_is_image, pictures)):
        said = ", ".join(map(str, kinds)) if kinds else f"{len(messages)} turns"
        raise TaskError(
            f"document {number} of '{name}' of lmms-eval is not pictures and then a text, as a study asks: {said}"
        )
    try:
        return tuple(map(as_rgb, pictures)), str(parts[-1]["text"])
    except RefusedError as error:
        raise _unreadable(name, number, error) from None


def _is_image(value: Any) -> bool:
    return isinstance(value, Image.Image)


def picture_keys(task: Any) -> list[str]:
    """Return a name for the pictures of every document: a hash of their files, or else the number of the document."""
    from datasets import Image as Feature  # pyright: ignore[reportMissingImports] - it comes with lmms-eval

    docs = task.eval_docs
    columns = [name for name, feature in docs.features.items() if isinstance(feature, Feature)]
    raw = docs.select_columns(columns)
    for name in columns:
        raw = raw.cast_column(name, Feature(decode=False))
    keys = []
    for number in range(len(docs)):
        content = [raw[number][name] for name in columns]
        files = [one["bytes"] or str(one["path"]).encode() for one in content if one is not None]
        keys.append(hashlib.sha256(b"".join(files)).hexdigest()[:16] if files else f"document {number}")
    return keys
