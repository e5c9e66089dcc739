"""Visual inputs before the processor: a PIL image, several of them, or a video as a sequence of PIL images."""

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


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a prompt that has several, in their order.

    Attributes:
        images: RGB images of any sizes, at least two.
    """

    images: tuple[Image.Image, ...]

    @property
    def size(self) -> tuple[int, ...]:
        """Width and height of the first image, of the second, and so on."""
        return tuple(length for image in self.images for length in image.size)


VisualInput = Image.Image | Images | Video
"""A PIL image, several `Images`, or a `Video`."""


def images_of(shown: VisualInput) -> tuple[Image.Image, ...]:
    """Return the image, the images of a prompt, or the frames of a video."""
    if isinstance(shown, Video):
        return shown.frames
    return shown.images if isinstance(shown, Images) else (shown,)
