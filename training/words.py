"""The tokenizer of both shipped models and of the text tower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tokensieve.tasks.world.words import VOCABULARY

SPECIAL = (
    "<pad>",
    "<s>",
    "<unk>",
    "</s>",
    "<image>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
IDS = {word: number for number, word in enumerate((*SPECIAL, *VOCABULARY))}
PAD, BOS, UNK, EOS, IMAGE, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD = range(len(SPECIAL))


def encode(text: str) -> list[int]:
    """Return the ids of the words of a text, which are split at spaces."""
    return [IDS[word] for word in text.split()]


def padded(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return the ids of texts with begin and end tokens, and their mask, int64 `[texts, longest]`."""
    rows = [[BOS, *encode(text), EOS] for text in texts]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask


def tokenizer(end: bool, ids: Mapping[str, int] = IDS, **settings: object) -> PreTrainedTokenizerFast:
    """Return the tokenizer: words of a closed vocabulary, regardless of case and of a space before `?`.

    Args:
        end: whether texts are closed with `</s>`, as a text tower wants them.
        ids: of all words and special tokens.
        **settings: of the tokenizer class.
    """
    raw = Tokenizer(models.WordLevel(dict(ids), unk_token="<unk>"))  # noqa: S106 - no password
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[?.]"), "isolated")]
    )
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if end else "<s> $A", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",  # noqa: S106
        bos_token="<s>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
        padding_side="right" if end else "left",
        clean_up_tokenization_spaces=False,
        **settings,
    )
