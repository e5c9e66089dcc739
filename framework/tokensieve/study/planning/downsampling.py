"""Downsampled images: fewer visual tokens without pruning, if the processor makes fewer tokens of them."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

from tokensieve.checkpoints.loaded_model import LoadedModel
from tokensieve.models.pictures import VisualInput

MIN_BUDGET_SHARE = 0.8
"""A downsampled image meets a budget if it has at most as many tokens, and at least this share of them."""
NO_SMALLER_VIDEO = (
    "a video is not downsampled: its number of frames stays, and processors resize all frames to one size"
)
_ASPECT_CHANGES = (1.0, 1.07, 1 / 1.07, 1.15, 1 / 1.15)
"""Factors by which an image may become wider or narrower, so that its number of tokens is nearer to the budget."""
_BISECTION_STEPS = 7


def count_prompt_tokens(ready: LoadedModel, picture: VisualInput | None, prompt: str = "?") -> tuple[int, int]:
    """Return the number of visual and of text tokens of a question about an image or a video.

    Args:
        ready: the model with its processor.
        picture: the image or video; none for a question alone.
        prompt: the user's turn.
    """
    ids = ready.processor_inputs(None if picture is None else [picture], [prompt])["input_ids"]
    decoder = ready.adapter.decoder
    placeholders = [] if decoder is None else [modality.placeholder_id for modality in decoder.modalities]
    visual = sum(int((ids == placeholder).sum()) for placeholder in placeholders)
    return visual, ids.numel() - visual


def downsampled_size(ready: LoadedModel, picture: Image.Image, budget: int) -> tuple[int, int] | None:
    """Return the width and height at which an image has as many visual tokens as a budget, or nearly as many.

    Returns:
        The size; none if the processor makes no such number of tokens, see `MIN_BUDGET_SHARE`.
    """
    best: tuple[int, float, tuple[int, int]] = (0, 0.0, (0, 0))
    for aspect in _ASPECT_CHANGES:
        for tokens, size in _sizes_below(ready, picture, budget, aspect):
            # Of sizes with the same number of tokens, the least distorted one.
            best = max(best, (tokens, -abs(aspect - 1.0), size))
        if best[0] == budget:
            break
    return best[2] if best[0] >= MIN_BUDGET_SHARE * budget else None


def _sizes_below(
    ready: LoadedModel, picture: Image.Image, budget: int, aspect: float
) -> Iterator[tuple[int, tuple[int, int]]]:
    """Bisect the scale of an image, and yield every tried size that has at most as many tokens as the budget."""
    low, high = 0.0, 1.0
    for _ in range(_BISECTION_STEPS):
        scale = (low + high) / 2
        size = (max(1, round(picture.width * scale * aspect)), max(1, round(picture.height * scale / aspect)))
        tokens, _ = count_prompt_tokens(ready, picture.resize(size, Image.Resampling.BICUBIC))
        if tokens <= budget:
            yield tokens, size
            low = scale
        else:
            high = scale
