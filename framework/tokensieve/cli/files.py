"""Pictures, files and folders that a command line names."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from tokensieve.errors import RefusedError


def read_image(file: Path) -> Image.Image:
    """Read a picture, upright and in RGB.

    Raises:
        RefusedError: if the file does not exist, or is no picture.
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


def make_folder(path: Path) -> None:
    """Make a folder for results.

    Raises:
        RefusedError: if a file is in the way, or the folder cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RefusedError(
            f"the folder {path} cannot be made ({error.strerror or error}); name another with --out"
        ) from None


def require_writable(file: Path | None) -> None:
    """Raise if a file cannot be written, before any work is done.

    Raises:
        RefusedError: if the file is a folder, or its folder does not exist.
    """
    if file is not None and file.is_dir():
        raise RefusedError(f"{file} is a folder; name a file")
    if file is not None and not file.parent.is_dir():
        raise RefusedError(f"there is no folder {file.parent} to write {file.name} into; make it first")
