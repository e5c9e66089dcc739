"""Reading pictures from files, for all commands and tasks: upright, in RGB, 8 bits a channel."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from tokensieve.errors import RefusedError, listing

NOTE = "tokensieve_note"
"""The key in `Image.info` of a note about how the picture was read."""

# Modes that Pillow converts to RGB, and to RGB with alpha, without a loss that shows.
_COLOURS = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
# Pillow turns these into RGB by cutting off all values above 255.
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_TIFF_BITS, _TIFF_MEANING, _TIFF_NUMBERS = 258, 262, 339


def read_picture(file: Path) -> Image.Image:
    """Read a picture: upright by its EXIF, in RGB, with transparent pixels on white.

    Greys of 16 bits and of floats are scaled by the range of their mode. Of an animation or a file of several pages
    the first one is read, and `picture_note` says so.

    Raises:
        RefusedError: if the file is no picture, is broken, or has a mode whose range is not known.
    """
    # Not by methods of the path, which raise where a name is too long.
    if not os.path.isfile(file):
        what = f"{file} is no picture, but no file at all" if os.path.exists(file) else f"there is no picture {file}"
        raise RefusedError(f"{what}; give the path of a PNG, a JPEG or the like")
    try:
        # From a path, Pillow maps some TIFFs into memory with height and width exchanged where EXIF turns them.
        with file.open("rb") as content, Image.open(content) as opened:
            note = _pages_note(file.name, opened)
            encoding = _Encoding.of(opened)
            image = _in_rgb(opened, encoding)
    except UnidentifiedImageError:
        raise RefusedError(f"{file} is no picture that can be read; give a PNG, a JPEG or the like") from None
    # What decoders raise over a broken file is not documented.
    except Exception as error:
        raise RefusedError(f"{file} cannot be read as a picture: {str(error) or type(error).__name__}") from None
    image.info = {} if note is None else {NOTE: note}
    return image


def as_rgb(image: Image.Image) -> Image.Image:
    """Return a picture that others have opened as `read_picture` reads a file; one in RGB as it is.

    Raises:
        RefusedError: if it has a mode whose range is not known.
    """
    plain = image.mode == "RGB" and not image.has_transparency_data
    return image if plain else _in_rgb(image, _Encoding.of(image))


def _in_rgb(image: Image.Image, encoding: _Encoding) -> Image.Image:
    return _on_white(_as_8_bits(ImageOps.exif_transpose(image), encoding))


def picture_note(image: Image.Image) -> str | None:
    """Return what there is to say about how a picture was read, or None."""
    note = image.info.get(NOTE)
    return None if note is None else str(note)


@dataclass(frozen=True)
class _Encoding:
    """How a file encodes values, which the mode of the decoded picture does not say.

    Attributes:
        format: of the file, such as `TIFF`.
        raw: the raw mode of Pillow's decoder, such as `L;2`.
        bits: of a value; None unless the file is a TIFF.
        numbers: the kind of numbers in a TIFF: 1 unsigned, 2 signed, 3 floats.
        zero_is_white: whether a TIFF's greys are inverted.
    """

    format: str
    raw: str
    bits: int | None = None
    numbers: int = 1
    zero_is_white: bool = False

    @classmethod
    def of(cls, opened: Image.Image) -> _Encoding:
        """Return the encoding of an opened file, before its pixels are decoded."""
        tiles: Any = getattr(opened, "tile", None)
        arguments = tiles[0][3] if tiles else ""
        raw = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
        tags: Any = getattr(opened, "tag_v2", None)
        if tags is None:
            return cls(str(opened.format), str(raw))
        bits, numbers = (tags.get(tag, (1,)) for tag in (_TIFF_BITS, _TIFF_NUMBERS))
        return cls(str(opened.format), str(raw), int(bits[0]), int(numbers[0]), tags.get(_TIFF_MEANING) == 0)


def _pages_note(name: str, opened: Image.Image) -> str | None:
    pages = int(getattr(opened, "n_frames", 1))
    # A PSD opens with all of its layers joined, which is not one of its frames.
    if pages < 2 or opened.tell() != 0:
        return None
    return f"{name} holds {pages} frames or pages; the first is read"


def _as_8_bits(image: Image.Image, encoding: _Encoding) -> Image.Image:
    """Return a picture with 8 bits a channel, with an alpha channel if a pixel can be transparent."""
    if image.mode in _DEEP:
        return _scaled(image, encoding)
    if image.mode not in (*_COLOURS, *_ALPHA):
        raise RefusedError(
            f"its mode is '{image.mode}'; {listing((*_COLOURS, *_ALPHA, *_DEEP))} can be read, so save it as RGB"
        )
    colour = image.info.get("transparency")
    if colour is None or image.mode in ("P", *_ALPHA):
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    if encoding.raw.startswith("RGB;16"):
        raise RefusedError("its mode is 'RGB' of 16 bits with one transparent colour; save it as RGBA")
    # A PNG of 2 or 4 bits names the colour in its own range.
    factor = {"L;2": 85, "L;4": 17}.get(encoding.raw, 1)
    values = np.asarray(image.convert("L") if image.mode == "1" else image)
    same = values == np.asarray(colour) * factor
    return _with_alpha(image.convert("RGB"), same if same.ndim == 2 else same.all(axis=-1))


def _scaled(image: Image.Image, encoding: _Encoding) -> Image.Image:
    """Return greys of more than 8 bits as greys of 8, with an alpha channel where a value means transparency."""
    values = np.asarray(image)
    lowest, highest, top = float(values.min()), float(values.max()), _top(image.mode, encoding)
    # NaN is not in the range, either.
    if not (lowest >= 0 and highest <= top):
        raise RefusedError(
            f"its mode is '{image.mode}', read as values from 0 to {top:g}, and it has values from {lowest:g} to "
            f"{highest:g}; scale them, or save it as RGB"
        )
    scaled = np.rint(values.astype(np.float64) * (255 / top))
    # Pillow inverts greys of 8 bits only.
    grey = Image.fromarray((255 - scaled if encoding.zero_is_white else scaled).astype(np.uint8))
    colour = image.info.get("transparency")
    return grey if colour is None else _with_alpha(grey.convert("RGB"), values == colour)


def _top(mode: str, encoding: _Encoding) -> float:
    """Return the value of a mode's white.

    Raises:
        RefusedError: if nothing says what it is.
    """
    if mode == "F":
        return 1.0
    if encoding.bits is not None and encoding.bits <= 16 and encoding.numbers == 1:
        return float(2**encoding.bits - 1)
    # Readers of other formats scale to 16 bits.
    if encoding.bits is None and (mode != "I" or encoding.format == "PPM"):
        return float(2**16 - 1)
    raise RefusedError(
        f"its mode is '{mode}', of signed integers or of more than 16 bits, so nothing says which value is white; "
        "scale them, or save it as RGB"
    )


def _with_alpha(image: Image.Image, transparent: NDArray[np.bool_]) -> Image.Image:
    image.putalpha(Image.fromarray(np.where(transparent, 0, 255).astype(np.uint8)))
    return image


def _on_white(image: Image.Image) -> Image.Image:
    """Return a picture in RGB; what shines through it is white."""
    if "A" not in image.getbands():
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
