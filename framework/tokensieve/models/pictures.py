"""What a model is shown: a picture, or a video as the pictures that it is made of."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True, eq=False)
class Video:
    """Pictures in the order of time.

    Attributes:
        frames: RGB, at least one, all of one size.
    """

    frames: tuple[Image.Image, ...]

    @property
    def size(self) -> tuple[int, int, int]:
        """Width, height, and how many frames."""
        return *self.frames[0].size, len(self.frames)


ImageOrVideo = Image.Image | Video
"""A picture or a video."""
