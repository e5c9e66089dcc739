"""Visual inputs before the processor: a PIL image, or a video as a sequence of PIL images."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True, eq=False)
class Video:
    """A video: its frames in the order of time.

    Attributes:
        frames: RGB images, at least one, all of one size.
    """

    frames: tuple[Image.Image, ...]

    @property
    def size(self) -> tuple[int, int, int]:
        """Width, height, and number of frames."""
        return *self.frames[0].size, len(self.frames)


ImageOrVideo = Image.Image | Video
"""A PIL image or a `Video`."""
