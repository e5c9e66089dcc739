"""Finding the question in a prompt: the content of the last user turn, without what stands for images."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from tokensieve.errors import RefusedError, brief, listing

_VISUAL = "\ufffc"
"""Stands for a run of visual tokens in a prompt's text."""
_FIRST, _REPLY, _LAST, _SYSTEM = (f"\u241e{name}\u241e" for name in ("FIRST", "REPLY", "LAST", "SYSTEM"))
# Words that processors of transformers put beside visual tokens, in several families.
_LABELS = re.compile(
    r"You are provided the following series of \S+ frames from a \S+ \[H:MM:SS\] video\.\s*(?=Frame from)"
    rf"|(?:Frame from \d+:\d+:|<\d+\.\d+ seconds>)\s*(?={_VISUAL})"
    rf"|Here is the original image\s*(?={_VISUAL}\s*and here are some crops to help you see better\s*{_VISUAL})"
    rf"|(?<={_VISUAL})\s*and here are some crops to help you see better(?=\s*{_VISUAL})"
)
# Of these, a video has several; a single one may be the user's own words.
_LABELS_OF_FRAMES = re.compile(rf"(?:Frame\d+:|\b\d\d:\d\d)\s*(?={_VISUAL})|(?<={_VISUAL})\s*\d+\.\d+ seconds")


@dataclass(frozen=True)
class _Template:
    """What a chat template writes around a user turn, without whitespace, which tokenizers do not all keep.

    Attributes:
        before: in front of the content.
        later: in front of the content of a turn that follows an answer; it ends with `before`.
        after: behind it, where an answer follows.
        end: behind it, where the prompt ends with an invitation to answer.
        silent_end: behind it, where the prompt ends without one.
        after_system: between the words of the system and those of the user, if they share a turn.
        before_image: whitespace that the processor writes before each image.
    """

    before: str
    later: str
    after: str
    end: str
    silent_end: str
    after_system: str | None
    before_image: str


def tokenizer_of(processor: Any) -> Any:
    """Return the tokenizer of a processor, or the tokenizer itself.

    Raises:
        RefusedError: if it is none.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    missing = [name for name in ("__call__", "decode", "all_special_ids") if not hasattr(tokenizer, name)]
    if missing:
        raise RefusedError(
            f"processor= is {brief(processor)}, whose tokenizer has no {listing(missing)}; give the model's own, as "
            "AutoProcessor.from_pretrained(...) returns"
        )
    return tokenizer


def questions(processor: Any, ids: Tensor, words: Tensor, notes: list[str] | None = None) -> list[str]:
    """Return the content of the last user turn of every prompt, without special tokens and placeholders.

    The turn is found by what the chat template writes around it. Where a prompt was not made with the template, the
    whole text of the prompt is the question.

    Args:
        processor: a processor or tokenizer.
        ids: int64 `[rows, n]`, the prompts.
        words: bool `[rows, n]`, which of them are neither padding nor stand for visual tokens.
        notes: gets a note where something else than a user's turn was read.
    """
    tokenizer = tokenizer_of(processor)
    template = _template(processor, tokenizer)
    placeholders = _placeholders(processor, tokenizer)
    special = _special_ids(tokenizer)
    found, said = [], []
    for row, real in zip(ids.cpu().tolist(), words.cpu().tolist(), strict=True):
        text, note = _question(
            _decode(tokenizer, row, real), template, {*placeholders, *_texts(tokenizer, special, row)}
        )
        found.append(text)
        said += [] if note is None else [note]
    if notes is not None:
        notes += dict.fromkeys(said)
    return found


def _decode(tokenizer: Any, row: list[int], real: list[bool]) -> str:
    """Return the text of a prompt, with a mark for every run of ids that are no words."""
    runs: list[list[int]] = [[]]
    for one, is_word in zip(row, real, strict=True):
        if is_word:
            runs[-1].append(one)
        elif runs[-1]:
            runs.append([])
    # Padding at the ends is no visual token, but a mark there does no harm: all marks are taken out.
    return f" {_VISUAL} ".join(str(tokenizer.decode(run)) if run else "" for run in runs)


def _special_ids(tokenizer: Any) -> set[int]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {*tokenizer.all_special_ids, *(number for number, token in added.items() if token.special)}


def _texts(tokenizer: Any, special: set[int], row: list[int]) -> set[str]:
    """Return the texts of the special tokens of a prompt."""
    return {str(tokenizer.decode([one])).strip() for one in special.intersection(row)}


def _placeholders(processor: Any, tokenizer: Any) -> set[str]:
    """Return the texts of tokens that a processor names: those of images, videos, their beginnings, ends and tiles."""
    values = {name: value for part in (tokenizer, processor) for name, value in vars(part).items()}
    return {str(value) for name, value in values.items() if name.endswith("_token") and isinstance(value, str)}


def _question(text: str, template: _Template | str, placeholders: set[str]) -> tuple[str, str | None]:
    """Return the question in a prompt's text, and a note if it is not what a template frames."""
    if isinstance(template, str):
        return _plain(text, placeholders), f"{template}: all text of the prompt was read as the question"
    turn = _last_turn(text, template, placeholders)
    if turn is None:
        note = "the prompt was not made with the processor's chat template: all its text was read as the question"
        return _plain(text, placeholders), note
    question = _plain(turn, placeholders)
    if template.after_system is not None and template.after_system in _joined_pieces(turn, template, placeholders):
        return question, (
            "the chat template puts the words of the system into the user's turn, and they cannot be told apart: the "
            "whole turn was read as the question"
        )
    if template.before in _compact(turn):
        return question, (
            f"the question holds '{template.before}', which the chat template writes in front of a user's turn: it was "
            "read as the user's words, but may begin a turn of its own"
        )
    return question, None


def _joined_pieces(turn: str, template: _Template, placeholders: set[str]) -> str:
    """Return a turn without what stands for images, and without the whitespace that processors write around that."""
    pieces = re.split("|".join(map(re.escape, [_VISUAL, *placeholders - {""}])), turn)
    return " ".join(piece.lstrip().removesuffix(template.before_image) for piece in pieces if piece.strip()).rstrip()


def _last_turn(text: str, template: _Template, placeholders: Iterable[str]) -> str | None:
    """Return the content of the last user turn; None if the template's text is not there."""
    places = [place for place, sign in enumerate(text) if not sign.isspace() and sign != _VISUAL]
    whole = "".join(text[place] for place in places)
    before, after, end = template.before, template.after, template.end
    # Nobody types special tokens: the last one begins the last turn, and the next one ends it, whoever speaks then.
    closes = _has_special(template.silent_end, placeholders)
    if _has_special(before, placeholders):
        start = whole.rfind(before)
    elif closes:
        again = whole.rfind(template.later)
        start = whole.find(before) if again < 0 else again + len(template.later) - len(before)
    else:
        start = following = whole.find(before)
        while following >= 0:
            start = following
            answer = whole.find(after, start + len(before))
            following = -1 if answer < 0 else whole.find(before, answer + len(after))
    if start < 0:
        return None
    start += len(before)
    stop = whole.find(template.silent_end if closes else after, start)
    if not closes and whole.endswith(end, start):
        stop = len(whole) - len(end)
    elif stop < 0 and whole.endswith(template.silent_end, start):
        stop = len(whole) - len(template.silent_end)
    if stop < 0:
        return None
    # Marks of visual tokens between the turn's text and what is around it belong to the turn.
    first = places[start - 1] + 1 if start else 0
    last = places[stop] if stop < len(places) else len(text)
    return text[first:last]


def _has_special(text: str, special: Iterable[str]) -> bool:
    """Return whether any special token is in a text without whitespace."""
    return any(_compact(one) in text for one in special if _compact(one))


def _plain(text: str, placeholders: set[str]) -> str:
    """Return a text without special tokens, placeholders and the labels of images and frames, in single spaces."""
    longest_first = sorted((one for one in placeholders if one), key=len, reverse=True)
    if longest_first:
        text = re.sub("|".join(map(re.escape, longest_first)), " ", text)
    text = _LABELS.sub(" ", " ".join(text.split()))
    if len(_LABELS_OF_FRAMES.findall(text)) > 1:
        text = _LABELS_OF_FRAMES.sub(" ", text)
    return " ".join(text.replace(_VISUAL, " ").split())


def _common_start(texts: Sequence[str]) -> str:
    """Return the longest text with which all texts begin."""
    length = sum(1 for _ in itertools.takewhile(lambda signs: len({*signs}) == 1, zip(*texts, strict=False)))
    return texts[0][:length]


def _compact(text: str) -> str:
    return "".join(sign for sign in text if not sign.isspace())


def _template(processor: Any, tokenizer: Any) -> _Template | str:
    """Return what the chat template writes around a user turn, or why that is not known."""
    if not getattr(processor, "chat_template", None):
        return "the processor has no chat template"
    # The content of turns: of words alone, and with images, which some templates put first and others in place.
    contents = [(0, False)] if tokenizer is processor else [(0, False), (1, False), (1, True), (2, False)]
    talks = [_render(processor, images, behind, "invitation") for images, behind in contents]
    begins = [re.split(f"{_FIRST}|{_REPLY}|{_LAST}", talk) for talk in talks if talk is not None]
    answered, silent = (_render(processor, 0, False, ending) for ending in ("reply", "nothing"))
    if talks[0] is None or answered is None or silent is None:
        return "the processor's chat template does not write a talk of several turns"
    first, later = (_common_start([_compact(parts[number]) for parts in begins]) for number in (0, 2))
    before = _common_start([first[::-1], later[::-1]])[::-1]
    end, silent_end = (_compact(talk.split(_LAST)[1]) for talk in (talks[0], silent))
    after = _common_start([end, _compact(answered.split(_LAST)[1].split(_REPLY)[0])])
    if not before or not after:
        return "the processor's chat template puts nothing around the turns of users"
    # Some processors write blank lines around images.
    image = str(getattr(processor, "full_image_sequence", ""))
    before_image = image[: len(image) - len(image.lstrip())]
    return _Template(before, later, after, end, silent_end, _after_system(processor, before), before_image)


def _render(processor: Any, images: int, behind: bool, ending: Literal["invitation", "reply", "nothing"]) -> str | None:
    """Return a talk of two user turns as the template writes it, or None if the template refuses it.

    Args:
        processor: the processor or tokenizer.
        images: how many images a turn has.
        behind: whether they are behind the text.
        ending: what follows the second turn.
    """
    for as_parts in ((True, True), (True, False), (False, False)):
        if images and not as_parts[0]:
            continue
        visual = [{"type": "image"}] * images

        def turn(role: str, text: str, parts: bool, visual: list[dict[str, str]] = visual) -> dict[str, Any]:
            words = {"type": "text", "text": text}
            own = visual if role == "user" else []
            return {"role": role, "content": ([words, *own] if behind else [*own, words]) if parts else text}

        user, assistant = as_parts
        talk = [turn("user", _FIRST, user), turn("assistant", _REPLY, assistant), turn("user", _LAST, user)]
        signs = [_FIRST, _REPLY, _LAST]
        if ending == "reply":
            talk.append(turn("assistant", _REPLY, assistant))
            signs.append(_REPLY)
        text = _applied(processor, talk, ending == "invitation")
        if text is not None and re.findall("|".join(map(re.escape, {*signs})), text) == signs:
            return text
    return None


def _after_system(processor: Any, opening: str) -> str | None:
    """Return what stands between the system's words and the user's where they share a turn; None where they do not."""
    for parts in (True, False):
        talk = [
            {"role": role, "content": [{"type": "text", "text": text}] if parts else text}
            for role, text in (("system", _SYSTEM), ("user", _FIRST))
        ]
        text = _applied(processor, talk, True)
        if text is not None and text.count(_SYSTEM) == text.count(_FIRST) == 1:
            between = text.split(_SYSTEM)[1].split(_FIRST)[0]
            return None if opening in _compact(between) or not between.strip(" ") else between
    return None


def _applied(processor: Any, talk: list[dict[str, Any]], invites: bool) -> str | None:
    """Return a talk as the template writes it; None if the template refuses such a talk."""
    try:
        return str(processor.apply_chat_template(talk, add_generation_prompt=invites, tokenize=False))
    except Exception:  # A template can raise any error; the caller tries another form, or notes it in the ledger.
        return None
