"""Smaller pictures: fewer visual tokens without any pruning, where a processor makes as many as a picture is large."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

from tokensieve.checkpoints.ready import LoadedModel
from tokensieve.models.pictures import ImageOrVideo

NEAR = 0.8
"""A picture is as good as a budget if it has at most so many tokens, and no fewer than this part of them."""
NO_SMALLER_VIDEO = "a video is not made smaller: its frames are as many, and processors give all of them one size"
_STRETCHES = (1.0, 1.07, 1 / 1.07, 1.15, 1 / 1.15)
"""By how much wider or narrower a picture may become, so that its tokens come nearer to the budget."""
_STEPS = 7


def count_prompt_tokens(ready: LoadedModel, picture: ImageOrVideo | None, prompt: str = "?") -> tuple[int, int]:
    """Return how many visual and how many text tokens the processor makes of a question about a picture or a video.

    Args:
        ready: whose processor it is.
        picture: what is shown; none for a question alone.
        prompt: the user's turn.
    """
    ids = ready.words(None if picture is None else [picture], [prompt])["input_ids"]
    decoder = ready.adapter.decoder
    placeholders = [] if decoder is None else [modality.placeholder_id for modality in decoder.modalities]
    visual = sum(int((ids == placeholder).sum()) for placeholder in placeholders)
    return visual, ids.numel() - visual


def downsampled_size(ready: LoadedModel, picture: Image.Image, budget: int) -> tuple[int, int] | None:
    """Return the width and height at which a picture has as many visual tokens as a budget, or nearly.

    Returns:
        None where the processor allows none; see `NEAR`.
    """
    best: tuple[int, float, tuple[int, int]] = (0, 0.0, (0, 0))
    for stretch in _STRETCHES:
        for tokens, size in _smaller(ready, picture, budget, stretch):
            # The least distorted of those that are as near.
            best = max(best, (tokens, -abs(stretch - 1.0), size))
        if best[0] == budget:
            break
    return best[2] if best[0] >= NEAR * budget else None


def _smaller(
    ready: LoadedModel, picture: Image.Image, budget: int, stretch: float
) -> Iterator[tuple[int, tuple[int, int]]]:
    """Bisect the scale of a picture, and give every size with no more tokens than the budget."""
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        scale = (low + high) / 2
        size = (max(1, round(picture.width * scale * stretch)), max(1, round(picture.height * scale / stretch)))
        tokens, _ = count_prompt_tokens(ready, picture.resize(size, Image.Resampling.BICUBIC))
        if tokens <= budget:
            yield tokens, size
            low = scale
        else:
            high = scale
