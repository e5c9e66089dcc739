"""Pictures and folders that a command line names."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from tokensieve.errors import RefusedError


def photo(file: Path) -> Image.Image:
    """Read a picture, upright and in RGB.

    Raises:
        RefusedError: if it is not there, or is no picture.
    """
    if not file.exists():
        raise RefusedError(f"there is no picture {file}; --image takes the path of a PNG, JPEG or the like")
    try:
        with Image.open(file) as opened:
            upright = ImageOps.exif_transpose(opened)
            return upright.convert("RGB")
    except UnidentifiedImageError:
        raise RefusedError(f"{file} is no picture that can be read; --image takes a PNG, a JPEG or the like") from None
    # What decoders raise over a broken file is not documented.
    except Exception as error:
        raise RefusedError(f"{file} cannot be read as a picture: {error}") from None


def folder(path: Path) -> None:
    """Make a folder for results.

    Raises:
        RefusedError: if a file is in the way, or it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RefusedError(
            f"the folder {path} cannot be made ({error.strerror or error}); name another with --out"
        ) from None
