"""Finding the question in a prompt."""

from __future__ import annotations

from typing import Any

from torch import Tensor

_MARK = "\u241eQUESTION\u241e"


def tokenizer_of(processor: Any) -> Any:
    """Return the tokenizer of a processor, or the tokenizer itself."""
    return getattr(processor, "tokenizer", processor)


def questions(processor: Any, ids: Tensor, words: Tensor) -> list[str]:
    """Return the last user turn of every prompt, without template and image placeholders.

    The template is found by rendering a turn of known text; where a prompt was not made with it,
    the whole text of the prompt is the question.

    Args:
        processor: a processor or tokenizer.
        ids: int64 `[rows, n]`, the prompts.
        words: bool `[rows, n]`, which of them are neither padding nor stand for visual tokens.
    """
    tokenizer = tokenizer_of(processor)
    special: set[int] = set(getattr(tokenizer, "all_special_ids", ()))
    template = _template(processor)
    return [
        _question(tokenizer, template, special, row[real].tolist())
        for row, real in zip(ids.cpu(), words.cpu(), strict=True)
    ]


def _question(tokenizer: Any, template: tuple[str | None, str | None], special: set[int], words: list[int]) -> str:
    before, after = template
    whole = _squeeze(tokenizer.decode(words))
    if before is not None and after is not None and (before or after):
        start = whole.rfind(before) if before else 0
        if start >= 0:
            turn = whole[start + len(before) :]
            end = turn.rfind(after) if after else len(turn)
            if end >= 0:
                return turn[:end].strip()
    return _squeeze(tokenizer.decode([i for i in words if i not in special]))


def _template(processor: Any) -> tuple[str | None, str | None]:
    """Return the text around a user's turn, or nothing where there is no template."""
    if not getattr(processor, "chat_template", None):
        return None, None
    tokenizer = tokenizer_of(processor)
    is_processor = tokenizer is not processor
    content: Any = [{"type": "image"}, {"type": "text", "text": _MARK}] if is_processor else _MARK
    turn = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    image = getattr(processor, "image_token", None)
    head, _, tail = str(text).replace(image or "\0", "").partition(_MARK)
    # A prompt may hold no image or several; only the words next to the question identify the turn.
    return next(iter(reversed(head.split())), ""), next(iter(tail.split()), "")


def _squeeze(text: str) -> str:
    return " ".join(text.split())
