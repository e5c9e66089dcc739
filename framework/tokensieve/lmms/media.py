"""Pictures and frames of the messages that lmms-eval's tasks make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from tokensieve.errors import RefusedError, short_message
from tokensieve.models.picture_files import as_rgb, read_picture
from tokensieve.tasks.files import evenly


def picture_of(value: Any) -> Image.Image:
    """Return the picture of a message, RGB.

    Raises:
        RefusedError: if it is none, its file cannot be read, or its mode has no known range.
    """
    if isinstance(value, Image.Image):
        return as_rgb(value)
    if isinstance(value, str) and "://" not in value:
        return read_picture(Path(value))
    raise RefusedError(f"a document's picture is {value!r:.60}; pictures and their files are taken")


def frames_of(value: Any, count: int) -> list[Image.Image]:
    """Return frames of the video of a message, at even distances from the first to the last, RGB.

    Args:
        value: the file, or a list of pictures.
        count: how many.

    Raises:
        RefusedError: if there is no video, or its file cannot be read.
    """
    if isinstance(value, (list, tuple)) and value:
        return [picture_of(one) for one in evenly(value, count)]
    if not isinstance(value, str) or "://" in value:
        raise RefusedError(f"a document's video is {value!r:.60}; files and lists of pictures are taken")
    from transformers.video_utils import load_video

    def chosen(metadata: Any, **_: Any) -> list[int]:
        return evenly(range(int(metadata.total_num_frames)), count)

    try:
        # Its annotation has no files, of which it reads the frames.
        frames, _ = load_video(value, backend="opencv", sample_indices_fn=chosen)  # type: ignore[arg-type]
    # Each decoder has errors of its own.
    except Exception as error:
        raise RefusedError(f"the video {value} cannot be read: {short_message(error)}") from None
    return [as_rgb(Image.fromarray(frame)) for frame in frames]
