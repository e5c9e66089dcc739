"""Pictures, files and folders that a command line names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tokensieve.cli import console
from tokensieve.errors import RefusedError

if TYPE_CHECKING:
    from PIL import Image


def read_image(file: Path) -> Image.Image:
    """Read the picture of `--image`, upright and in RGB, and print a note if the file holds more than that.

    Raises:
        RefusedError: if the file does not exist, or is no picture that can be read without a guess.
    """
    from tokensieve.models.picture_files import picture_note, read_picture

    image = read_picture(file)
    note = picture_note(image)
    if note is not None:
        console.warn(f"note: {note}")
    return image


def make_folder(path: Path, option: str = "--out") -> None:
    """Make a folder for results.

    Raises:
        RefusedError: if a file is in the way, or the folder cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RefusedError(
            f"the folder {path} cannot be made ({error.strerror or error}); name another with {option}"
        ) from None


def require_writable(file: Path | None) -> None:
    """Raise if a file cannot be written, before any work is done.

    Raises:
        RefusedError: if the file is a folder, its folder does not exist, or its name is too long.
    """
    # Not by methods of the path, which raise where a name is too long.
    if file is not None and os.path.isdir(file):
        raise RefusedError(f"{file} is a folder; name a file")
    if file is not None and not os.path.isdir(file.parent):
        raise RefusedError(f"there is no folder {file.parent} to write {file.name} into; make it first")
    if file is not None:
        require_name(file, "file")


def require_name(path: Path, what: str = "folder") -> None:
    """Raise if nothing can have the name of a path, such as one that is too long, before any work is done.

    Raises:
        RefusedError: with the reason.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        # A folder that is still to be made hides that a name in it is too long.
        if not os.path.isdir(path.parent) and path.parent != path:
            require_name(Path(path.name), what)
    except OSError as error:
        said = f"{path} cannot be written" if what == "file" else f"the folder {path} cannot be made"
        raise RefusedError(f"{said} ({error.strerror or error}); name another {what}") from None
